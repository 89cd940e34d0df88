# Every command that developers and CI need. `make test` is all of it; a fresh machine needs Rust, Go and Node.js.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test

# What is slow to build is kept outside the checkout: CI starts from a fresh clone every time.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/scrapetarget-exporter
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(CACHE)/target
endif

# Cargo and Go use every core by themselves: with -j, they would only be in each other's way.
.NOTPARALLEL:
.DELETE_ON_ERROR:

# The tools of the tests come from Go modules, one for each project, because none would build at the others' versions. Each has a
# folder of its own in the cache, named after all that decides what is built: a change rebuilds that module and no other.
VERSION_OF_KUBERNETES := k8s.io/component-base/version
BUILD_prometheus := -tags remove_all_sd,enable_kubernetes_sd -ldflags '-s -w -X github.com/prometheus/common/version.Version=3.15.0'
BUILD_etcd := -ldflags '-s -w'
# Without a version kubectl could not read the API server's.
BUILD_kubernetes := -ldflags '-s -w -X $(VERSION_OF_KUBERNETES).gitVersion=v1.36.3 -X $(VERSION_OF_KUBERNETES).gitMajor=1 -X $(VERSION_OF_KUBERNETES).gitMinor=36'
BUILD_operator := -ldflags '-s -w -X github.com/prometheus/common/version.Version=0.93.0'
BUILD_helm := -ldflags '-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1'
sum = $(firstword $(shell { cat tests/tools/$(1)/go.mod tests/tools/$(1)/go.sum; echo "$(BUILD_$(1))"; } | cksum))
TOOLS_prometheus := $(CACHE)/prometheus-$(call sum,prometheus)
TOOLS_etcd := $(CACHE)/etcd-$(call sum,etcd)
TOOLS_kubernetes := $(CACHE)/kubernetes-$(call sum,kubernetes)
TOOLS_operator := $(CACHE)/operator-$(call sum,operator)
TOOLS_helm := $(CACHE)/helm-$(call sum,helm)
# build MODULE, PACKAGE
build = mkdir -p $(@D) && cd tests/tools/$(1) && CGO_ENABLED=0 go build -trimpath -buildvcs=false $(BUILD_$(1)) -o $@ $(2)

# An API server that is there already is taken, but only together with its etcd, and a kubectl only from beside it: one that was
# installed for something else may be of any age.
there = $(shell PATH="$${KUBEBUILDER_ASSETS:+$$KUBEBUILDER_ASSETS:}$$PATH" command -v $(1))
SERVER := $(if $(call there,etcd),$(call there,kube-apiserver))
beside = $(if $(SERVER),$(wildcard $(dir $(SERVER))$(1)))

export PROMTOOL := $(TOOLS_prometheus)/promtool
export PROMETHEUS := $(TOOLS_prometheus)/prometheus
export ETCD := $(or $(if $(SERVER),$(call there,etcd)),$(TOOLS_etcd)/etcd)
export KUBE_APISERVER := $(or $(SERVER),$(TOOLS_kubernetes)/kube-apiserver)
export KUBE_CONTROLLER_MANAGER := $(or $(call beside,kube-controller-manager),$(TOOLS_kubernetes)/kube-controller-manager)
export KUBECTL := $(or $(call beside,kubectl),$(TOOLS_kubernetes)/kubectl)
export PROMETHEUS_OPERATOR := $(TOOLS_operator)/operator
export OPERATOR_CRDS := $(TOOLS_operator)/operator-crds
export HELM := $(TOOLS_helm)/helm
export RUSTDOCFLAGS := -Dwarnings
KUBERNETES_THREADS ?= 8

.PHONY: test format lint docs unit kubernetes tools browser bench fuzz generate clean-cache

## Everything that must hold before a change lands
test: tools browser format lint docs unit kubernetes

format:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets --test kubernetes -- -Dwarnings

docs:
	cargo doc --locked --no-deps --document-private-items

# Unit, property, golden, HTTP, command, licence and drift tests; the exposition is judged by promtool, the page by Chromium. TESTS
# chooses some of them.
unit:
	cargo test --locked $(TESTS)

# The CRD and the controller, against a Kubernetes API server, the Prometheus Operator and Prometheus. These tests wait more than they
# compute: more of them than cores run together. TESTS chooses some of them, by a part of the name.
kubernetes:
	cargo test --locked --test kubernetes -- --test-threads=$(KUBERNETES_THREADS) $(TESTS)

## Programs that judge us, built at the versions that tests/tools/*/go.mod pin
tools: $(PROMTOOL) $(PROMETHEUS) $(ETCD) $(KUBE_APISERVER) $(KUBE_CONTROLLER_MANAGER) $(KUBECTL) $(PROMETHEUS_OPERATOR) $(OPERATOR_CRDS) $(HELM)

$(TOOLS_prometheus)/%:
	$(call build,prometheus,github.com/prometheus/prometheus/cmd/$*)

$(TOOLS_etcd)/etcd:
	$(call build,etcd,go.etcd.io/etcd/server/v3)

$(TOOLS_kubernetes)/%:
	$(call build,kubernetes,k8s.io/kubernetes/cmd/$*)

$(TOOLS_operator)/operator:
	$(call build,operator,github.com/prometheus-operator/prometheus-operator/cmd/operator)

$(TOOLS_helm)/helm:
	$(call build,helm,helm.sh/helm/v4/cmd/helm)

# The module brings its CRDs along.
$(TOOLS_operator)/operator-crds: | $(TOOLS_operator)/operator
	rm -rf $@.new
	cd tests/tools/operator && module=$$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator) \
	  && mkdir $@.new && cp "$$module"/example/prometheus-operator-crd/*.yaml $@.new/
	mv $@.new $@

## Chromium, for the test that looks at the page
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || { echo "error: the test of the page needs Chromium: install it, or set CHROMIUM to its path" >&2; exit 1; }

## Benchmarks: figures are printed, nothing is judged. BENCH chooses one, SCENARIOS some of its parts
bench: tools
	cargo build --locked --release
	for bench in $(or $(BENCH),$$(sed -n '/^\[\[bench\]\]/{n;s/name = "\(.*\)"/\1/p}' Cargo.toml)); do \
	  cargo bench --locked --bench $$bench -- $(SCENARIOS); done

## Each fuzz target for FUZZ_SECONDS (default 60)
fuzz:
	fuzz/run.sh $(or $(FUZZ_SECONDS),60)

## Everything that is generated: the CRD, the reference pages, and what is made of the Helm chart
generate: $(HELM)
	cargo run --locked --quiet -- crd > crds/scrapetargets.yaml
	UPDATE_DOCS=1 cargo test --locked --quiet --test docs --test alerts
	UPDATE_DOCS=1 cargo test --locked --quiet --test chart generated::

clean-cache:
	rm -rf $(CACHE)

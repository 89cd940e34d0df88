# Every command that developers and CI need. `make test` is all of it; a fresh machine needs Rust, Go, Node.js, a C++
# compiler and Python 3 with pip.

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
BUILD_oldest/kubernetes := -ldflags '-s -w -X $(VERSION_OF_KUBERNETES).gitVersion=v1.33.13 -X $(VERSION_OF_KUBERNETES).gitMajor=1 -X $(VERSION_OF_KUBERNETES).gitMinor=33'
BUILD_operator := -ldflags '-s -w -X github.com/prometheus/common/version.Version=0.93.0'
BUILD_coredns := -ldflags '-s -w'
BUILD_pause := -ldflags '-s -w'
BUILD_health := -ldflags '-s -w'
BUILD_pion := -ldflags '-s -w'
BUILD_oauth2-proxy := -ldflags '-s -w'
BUILD_states := -ldflags '-s -w -X github.com/prometheus/common/version.Version=2.19.1'
BUILD_registry := -ldflags '-s -w'
BUILD_cosign := -ldflags '-s -w'
BUILD_helm := -ldflags '-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1'
# What builds several of them.
SCRIPT_node-turn := tests/tools/npm.sh
SCRIPT_node-oauth2 := tests/tools/npm.sh
sum = $(firstword $(shell { cat tests/tools/$(1)/* $(SCRIPT_$(1)); echo "$(BUILD_$(1))"; } | cksum))
TOOLS_prometheus := $(CACHE)/prometheus-$(call sum,prometheus)
TOOLS_etcd := $(CACHE)/etcd-$(call sum,etcd)
TOOLS_kubernetes := $(CACHE)/kubernetes-$(call sum,kubernetes)
OLDEST_KUBERNETES := $(CACHE)/kubernetes-oldest-$(call sum,oldest/kubernetes)
TOOLS_operator := $(CACHE)/operator-$(call sum,operator)
TOOLS_helm := $(CACHE)/helm-$(call sum,helm)
TOOLS_registry := $(CACHE)/registry-$(call sum,registry)
TOOLS_cosign := $(CACHE)/cosign-$(call sum,cosign)
TOOLS_coredns := $(CACHE)/coredns-$(call sum,coredns)
TOOLS_pause := $(CACHE)/pause-$(call sum,pause)
TOOLS_health := $(CACHE)/health-$(call sum,health)
TOOLS_pion := $(CACHE)/pion-$(call sum,pion)
TOOLS_oauth2-proxy := $(CACHE)/oauth2-proxy-$(call sum,oauth2-proxy)
TOOLS_states := $(CACHE)/states-$(call sum,states)
export CRDS_OF_OTHERS := $(CACHE)/crds-$(call sum,crds)
# What is no Go module here comes from Debian, unpacked and not installed.
TOOLS_debian := $(CACHE)/debian-$(call sum,debian)
# build MODULE, PACKAGE
build = mkdir -p $(@D) && cd tests/tools/$(1) && CGO_ENABLED=0 go build -trimpath -buildvcs=false $(BUILD_$(1)) -o $@ $(2)

# packages NAMES: Debian packages; those that are missing are installed, which takes root.
packages = @missing=(); for package in $(1); do dpkg --status $$package >/dev/null 2>&1 || missing+=($$package); done; \
  [ $${\#missing[@]} = 0 ] \
  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; } \
  || { echo "error: install these packages: $${missing[*]}" >&2; exit 1; }

# An API server that is there already is taken, but only together with its etcd, and a kubectl only from beside it: one that was
# installed for something else may be of any age.
there = $(shell PATH="$${KUBEBUILDER_ASSETS:+$$KUBEBUILDER_ASSETS:}$$PATH" command -v $(1))
SERVER := $(if $(call there,etcd),$(call there,kube-apiserver))
beside = $(if $(SERVER),$(wildcard $(dir $(SERVER))$(1)))

export PROMTOOL := $(TOOLS_prometheus)/promtool
export PROMETHEUS := $(TOOLS_prometheus)/prometheus
export EXPOSITIONS := $(TOOLS_prometheus)/expositions
export ETCD := $(or $(if $(SERVER),$(call there,etcd)),$(TOOLS_etcd)/etcd)
export KUBE_APISERVER := $(or $(SERVER),$(TOOLS_kubernetes)/kube-apiserver)
export KUBE_CONTROLLER_MANAGER := $(or $(call beside,kube-controller-manager),$(TOOLS_kubernetes)/kube-controller-manager)
export KUBECTL := $(or $(call beside,kubectl),$(TOOLS_kubernetes)/kubectl)
export PROMETHEUS_OPERATOR := $(TOOLS_operator)/operator
export OPERATOR_CRDS := $(TOOLS_operator)/operator-crds
export HELM := $(TOOLS_helm)/helm
# What a node of a real cluster needs besides.
export KUBE_SCHEDULER := $(TOOLS_kubernetes)/kube-scheduler
export KUBELET := $(TOOLS_kubernetes)/kubelet
export KUBE_PROXY := $(TOOLS_kubernetes)/kube-proxy
export CONFIG_RELOADER := $(TOOLS_operator)/prometheus-config-reloader
export OPERATOR_BUNDLE := $(TOOLS_operator)/bundle.yaml
export COREDNS := $(TOOLS_coredns)/coredns
export PAUSE := $(TOOLS_pause)/pause
# The blackbox exporter, and real servers for both to probe.
export BLACKBOX_EXPORTER := $(TOOLS_debian)/usr/bin/prometheus-blackbox-exporter
export NODE_EXPORTER := $(TOOLS_debian)/usr/bin/prometheus-node-exporter
export NGINX := $(TOOLS_debian)/usr/sbin/nginx
export HEALTH := $(TOOLS_health)/health
# Exporters of others with what they ask, and TURN servers.
export DEBIAN_PROGRAMS := $(TOOLS_debian)
export KUBE_STATE_METRICS := $(TOOLS_states)/kube-state-metrics
export PION := $(TOOLS_pion)/pion
export NODE_TURN := $(CACHE)/node-turn-$(call sum,node-turn)
# Servers that issue tokens, and proxies that check them.
export OAUTH2_PROXY := $(TOOLS_oauth2-proxy)/oauth2-proxy
export NODE_OAUTH2 := $(CACHE)/node-oauth2-$(call sum,node-oauth2)
# What a release is rehearsed with.
export REGISTRY := $(TOOLS_registry)/registry
export COSIGN := $(TOOLS_cosign)/cosign
CARGO_CYCLONEDX := $(CACHE)/cargo-cyclonedx-0.5.9/bin/cargo-cyclonedx
# The version of mediasoup that the agent is tested with. The default is the newest that is built from its npm package alone.
MEDIASOUP ?= 3.8.4
export MEDIASOUP_INSTALLED := $(CACHE)/mediasoup-$(MEDIASOUP)-$(call sum,mediasoup)
# The versions of Node.js that the agent is for; a file for each.
export NODES_INSTALLED := $(CACHE)/node-$(call sum,node)
# An application on mediasoup as an image, to be watched in a pod.
ROOMS := $(MEDIASOUP_INSTALLED)/rooms.tar
export RUSTDOCFLAGS := -Dwarnings
KUBERNETES_THREADS ?= 8

.PHONY: test format lint docs unit kubernetes kubernetes-oldest test-agent e2e root node image image-test release-dry-run tools browser bench \
  bench-agent fuzz generate clean-cache

## Everything that must hold before a change lands
test: tools browser format lint docs unit kubernetes test-agent image-test e2e

format:
	cargo fmt --all --check

# Of the tests that `cargo test` leaves out, --all-targets knows nothing; and the fuzz targets are a package of their own.
lint:
	cargo clippy --locked --workspace --all-targets -- -Dwarnings
	cargo clippy --locked --test kubernetes --test image --test e2e -- -Dwarnings
	cp Cargo.lock fuzz/
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),target) -- -Dwarnings

docs:
	cargo doc --locked --workspace --no-deps --document-private-items

# Unit, property, golden, HTTP, command, licence and drift tests; the exposition is judged by promtool, the page by Chromium. TESTS
# chooses some of them.
unit:
	cargo test --locked --workspace $(TESTS)

# The CRD and the controller, against a Kubernetes API server, the Prometheus Operator and Prometheus. These tests wait more than they
# compute: more of them than cores run together. TESTS chooses some of them, by a part of the name.
kubernetes:
	cargo test --locked --test kubernetes -- --test-threads=$(KUBERNETES_THREADS) $(TESTS)

## The same on the oldest version of Kubernetes that is supported. It takes half an hour more than the tests, once, to build that
kubernetes-oldest: tools $(addprefix $(OLDEST_KUBERNETES)/,kube-apiserver kube-controller-manager kubectl etcd)
	KUBEBUILDER_ASSETS=$(OLDEST_KUBERNETES) $(MAKE) kubernetes

## The mediasoup agent, in applications with real workers and real media, and what the exporter makes of it. MEDIASOUP chooses the
## version, NODE the Node.js of the applications, TESTS some of the files
test-agent: export SCRAPETARGET_EXPORTER = $(abspath $(or $(CARGO_TARGET_DIR),target))/debug/scrapetarget-exporter
test-agent: $(MEDIASOUP_INSTALLED) $(NODES_INSTALLED)
	cargo build --locked
	node --test --test-concurrency=2 $(or $(TESTS),$(wildcard tests/agent/*.test.mjs))

$(MEDIASOUP_INSTALLED):
	nice -n 10 tests/tools/mediasoup/build.sh $(MEDIASOUP) $@

$(NODES_INSTALLED):
	tests/tools/node/build.sh $@

## The whole way: `helm install`, targets, and what Prometheus has of them, in a real cluster of one node that is made for it and leaves
## nothing behind. Or in a cluster of yours, which must have the Prometheus Operator: make e2e KUBECONFIG=FILE E2E_IMAGE=REGISTRY/REPOSITORY:TAG
ifeq ($(origin KUBECONFIG),command line)
e2e: tools
	KUBECONFIG=$(KUBECONFIG) E2E_IMAGE=$(E2E_IMAGE) cargo test --locked --test e2e
else
e2e: root tools node image $(ROOMS) $(REGISTRY)
	cargo test --locked --test e2e --no-run
	export KUBE_APISERVER=$(TOOLS_kubernetes)/kube-apiserver KUBECTL=$(TOOLS_kubernetes)/kubectl \
	  KUBE_CONTROLLER_MANAGER=$(TOOLS_kubernetes)/kube-controller-manager IMAGES="$(PODS) $(ROOMS) $(IMAGE)" \
	  && tests/e2e/node/run.sh cargo test --locked --test e2e
endif

## Programs that judge us, at the versions that tests/tools/*/go.mod and tests/tools/debian/packages.txt pin, and CRDs of others
tools: $(PROMTOOL) $(PROMETHEUS) $(EXPOSITIONS) $(ETCD) $(KUBE_APISERVER) $(KUBE_CONTROLLER_MANAGER) $(KUBECTL) $(PROMETHEUS_OPERATOR) $(OPERATOR_CRDS) $(HELM) \
  $(COREDNS) $(HEALTH) $(TOOLS_debian) $(KUBE_STATE_METRICS) $(PION) $(NODE_TURN) $(NODE_OAUTH2) $(OAUTH2_PROXY) $(CRDS_OF_OTHERS)

$(TOOLS_prometheus)/%:
	$(call build,prometheus,github.com/prometheus/prometheus/cmd/$*)

# The module brings the texts along with which its parsers are tested.
$(EXPOSITIONS): | $(PROMTOOL)
	rm -rf $@.new
	cd tests/tools/prometheus && module=$$(go list -m -f '{{.Dir}}' github.com/prometheus/prometheus) \
	  && mkdir $@.new && install -m 644 "$$module"/model/textparse/testdata/*.txt $@.new/
	mv $@.new $@

$(TOOLS_etcd)/etcd:
	$(call build,etcd,go.etcd.io/etcd/server/v3)

$(TOOLS_kubernetes)/%:
	$(call build,kubernetes,k8s.io/kubernetes/cmd/$*)

$(OLDEST_KUBERNETES)/etcd: | $(TOOLS_etcd)/etcd
	mkdir -p $(@D)
	ln -sf $(TOOLS_etcd)/etcd $@

$(OLDEST_KUBERNETES)/%:
	$(call build,oldest/kubernetes,k8s.io/kubernetes/cmd/$*)

$(TOOLS_operator)/operator $(TOOLS_operator)/prometheus-config-reloader:
	$(call build,operator,github.com/prometheus-operator/prometheus-operator/cmd/$(@F))

$(TOOLS_helm)/helm:
	$(call build,helm,helm.sh/helm/v4/cmd/helm)

$(COREDNS):
	$(call build,coredns,.)

$(PAUSE):
	$(call build,pause,.)

$(HEALTH):
	$(call build,health,.)

$(KUBE_STATE_METRICS):
	$(call build,states,k8s.io/kube-state-metrics/v2)

$(PION):
	$(call build,pion,.)

$(OAUTH2_PROXY):
	$(call build,oauth2-proxy,github.com/oauth2-proxy/oauth2-proxy/v7)

$(REGISTRY):
	$(call build,registry,github.com/distribution/distribution/v3/cmd/registry)

$(COSIGN):
	$(call build,cosign,github.com/sigstore/cosign/v3/cmd/cosign)

$(CARGO_CYCLONEDX):
	cargo install --quiet --locked --root $(CACHE)/cargo-cyclonedx-0.5.9 --version 0.5.9 cargo-cyclonedx

$(NODE_TURN):
	$(SCRIPT_node-turn) node-turn $@

$(NODE_OAUTH2):
	$(SCRIPT_node-oauth2) node-oauth2 $@

$(TOOLS_debian):
	tests/tools/debian/unpack.sh $@

$(CRDS_OF_OTHERS):
	tests/tools/crds/fetch.sh $@

# The module brings its CRDs along, and the manifests that install it.
$(TOOLS_operator)/operator-crds: | $(TOOLS_operator)/operator
	rm -rf $@.new
	cd tests/tools/operator && module=$$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator) \
	  && mkdir $@.new && cp "$$module"/example/prometheus-operator-crd/*.yaml $@.new/
	mv $@.new $@

$(OPERATOR_BUNDLE): | $(TOOLS_operator)/operator
	cd tests/tools/operator \
	  && install -m 644 "$$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)"/bundle.yaml $@

root:
	@[ "$$(id -u)" = 0 ] || { echo "error: a node and its containers need root" >&2; exit 1; }

# All parts of a node are of one version, whatever API server there is for the other tests.
CONTROL_PLANE := $(addprefix $(TOOLS_kubernetes)/,kube-apiserver kube-controller-manager kubectl)

# What runs as a Pod comes as an image, an archive beside the program.
PODS := $(PAUSE).tar $(COREDNS).tar $(PROMETHEUS).tar $(PROMETHEUS_OPERATOR).tar $(CONFIG_RELOADER).tar $(KUBE_STATE_METRICS).tar

$(PODS): %.tar: % tests/e2e/node/image.sh
	tests/e2e/node/image.sh $@ localhost/$(patsubst operator,prometheus-operator,$(notdir $<)):e2e $<

$(ROOMS): tests/e2e/application/rooms.js tests/e2e/node/image.sh | $(MEDIASOUP_INSTALLED)
	tests/e2e/node/image.sh $@ localhost/rooms:e2e "$$(command -v node)" $(MEDIASOUP_INSTALLED)/node_modules /application/node_modules \
	  tests/e2e/application/rooms.js /application/rooms.js

## What a node is made of: programs of Kubernetes, images, and what Debian has packages for
node: $(CONTROL_PLANE) $(KUBE_SCHEDULER) $(KUBELET) $(KUBE_PROXY) $(OPERATOR_BUNDLE) $(PODS)
	$(call packages,buildah containerd runc containernetworking-plugins iptables iproute2 openssl util-linux)

## Chromium, for the test that looks at the page
browser:
	@[ -n "$${CHROMIUM:-}" ] || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || { echo "error: the test of the page needs Chromium: install it, or set CHROMIUM to its path" >&2; exit 1; }

## The container image for this machine, as an archive: its program is built here, the rest is the last stage of the Dockerfile
export IMAGE := $(abspath $(or $(CARGO_TARGET_DIR),target))/image.tar
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
# A static program relocates itself, and glibc does so from packed relocations from 2.36 on. They take 0.7 MB less.
PACKED_RELOCATIONS = $(shell [ "$$(getconf GNU_LIBC_VERSION | cut -d. -f2)" -ge 36 ] && echo -C link-arg=-Wl,-z,pack-relative-relocs)
image:
	$(call packages,buildah)
	RUSTFLAGS='-C target-feature=+crt-static $(PACKED_RELOCATIONS)' cargo build --locked --release --target $(HOST)
	deploy/image/offline.sh $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/scrapetarget-exporter \
	  ghcr.io/scrapetarget/scrapetarget-exporter:$(VERSION) $(IMAGE)

# It is as docs/image.md says. This takes root and runc.
image-test: root image
	$(call packages,runc)
	cargo test --locked --test image

## Every step of a release, with a registry on loopback and a key of its own; docs/publishing.md describes them. ARM64 names a program for
## arm64, if there is one: the image is then for both architectures
release-dry-run: image $(HELM) $(REGISTRY) $(COSIGN) $(CARGO_CYCLONEDX)
	PATH="$(dir $(CARGO_CYCLONEDX)):$$PATH" deploy/release/dry-run.sh \
	  amd64=$(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/scrapetarget-exporter $(if $(ARM64),arm64=$(ARM64))

## Benchmarks: figures are printed, nothing is judged. BENCH chooses one, SCENARIOS some of its parts
bench: tools
	cargo build --locked --release
	for bench in $(or $(BENCH),$$(sed -n '/^\[\[bench\]\]/{n;s/name = "\(.*\)"/\1/p}' Cargo.toml)); do \
	  cargo bench --locked --bench $$bench -- $(SCENARIOS); done

## What the mediasoup agent costs its application: figures are printed, nothing is judged
bench-agent: $(MEDIASOUP_INSTALLED)
	node benches/agent.mjs

## Each fuzz target for FUZZ_SECONDS (default 60)
fuzz:
	fuzz/run.sh $(or $(FUZZ_SECONDS),60)

## Everything that is generated: the CRD, the reference pages, and what is made of the Helm chart
generate: $(HELM)
	cargo run --locked --quiet -- crd > crds/scrapetargets.yaml
	UPDATE_DOCS=1 cargo test --locked --quiet --test docs --test alerts
	UPDATE_DOCS=1 cargo test --locked --quiet --test convert worked_example
	# One after another: some render what others write.
	UPDATE_DOCS=1 cargo test --locked --quiet --test chart generated:: -- --test-threads 1
	UPDATE_DOCS=1 cargo test --locked --quiet --test blackbox differences::

clean-cache:
	rm -rf $(CACHE)

# The value of a variable, for scripts.
print-%:
	@echo '$($*)'

# Every command that developers and CI need. `make test` is all of it; a fresh machine needs Rust, Go and Node.js.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test

# What is slow to build is kept outside the checkout: CI starts from a fresh clone every time.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/scrapetarget-exporter
TOOLS := $(CACHE)/tools-$(shell cksum < tests/tools/go.sum | cut -d' ' -f1)
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(CACHE)/target
endif

export PROMTOOL := $(TOOLS)/promtool
export PROMETHEUS := $(TOOLS)/prometheus
export RUSTDOCFLAGS := -Dwarnings

.PHONY: test format lint docs unit tools browser bench fuzz generate clean-cache

## Everything that must hold before a change lands
test: tools browser format lint docs unit

format:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -Dwarnings

docs:
	cargo doc --locked --no-deps --document-private-items

# Unit, property, golden, HTTP, command, licence and drift tests; the exposition is judged by promtool, the page by Chromium.
unit:
	cargo test --locked

## promtool and Prometheus, built from their Go module at the version that tests/tools/go.mod pins
tools: $(PROMTOOL)

$(PROMTOOL): tests/tools/go.mod
	mkdir -p $(TOOLS)
	cd tests/tools && CGO_ENABLED=0 go build -tags remove_all_sd -ldflags '-s -w' -o $(TOOLS)/ tool
	touch $(PROMTOOL)

## Chromium, for the test that looks at the page
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || { echo "error: the test of the page needs Chromium: install it, or set CHROMIUM to its path" >&2; exit 1; }

## Benchmarks: figures are printed, nothing is judged
bench:
	cargo build --locked --release
	for bench in $$(sed -n '/^\[\[bench\]\]/{n;s/name = "\(.*\)"/\1/p}' Cargo.toml); do cargo bench --locked --bench $$bench; done

## Each fuzz target for FUZZ_SECONDS (default 60)
fuzz:
	fuzz/run.sh $(or $(FUZZ_SECONDS),60)

## Everything that is generated from the code: the CRD and the reference pages
generate:
	cargo run --locked --quiet -- crd > crds/scrapetargets.yaml
	UPDATE_DOCS=1 cargo test --locked --quiet --test docs

clean-cache:
	rm -rf $(CACHE)

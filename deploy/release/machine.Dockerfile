# A machine on which `make test` runs: Debian 12 with what CONTRIBUTING.md names, whatever the runner of the workflow has.
# It is run with --privileged and --cgroupns host, for nodes and containers of the tests.
FROM docker.io/library/golang:1.26.8-bookworm AS go
FROM docker.io/library/node:20-bookworm AS node
FROM docker.io/library/rust:1.95.0-bookworm
COPY --from=go /usr/local/go /usr/local/go
COPY --from=node /usr/local/bin/node /usr/local/bin/
COPY --from=node /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
    && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx \
    && rustup component add clippy rustfmt rust-docs \
    && apt-get update && apt-get install --yes --no-install-recommends g++ git make python3 python3-pip python3-venv
ENV PATH=/usr/local/go/bin:/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Not below /var or /run, of which a node of the tests has its own.
WORKDIR /src

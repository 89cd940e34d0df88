# The image of the exporter: one program that needs nothing of its base but the authorities it trusts. docs/image.md says how to build it.

# Named by digests, of all architectures together: the same sources are built on the same bases, whoever has moved a tag. The tags are for
# people, and to look for newer ones: docs/image.md says how.
ARG RUST=docker.io/library/rust:1.95.0-slim-trixie@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0
ARG BASE=gcr.io/distroless/static-debian13:nonroot@sha256:f7f8f729987ad0fdf6b05eeeae94b26e6a0f613bdf46feea7fc40f7bd72953e6

# Runs on the builder's own CPU, whatever the image is for: an emulated one would take an hour.
FROM --platform=${BUILDPLATFORM} ${RUST} AS build
ARG TARGETARCH
RUN case "${TARGETARCH}" in \
      amd64) cpu=x86_64 package=x86-64 ;; \
      arm64) cpu=aarch64 package=aarch64 ;; \
      *) echo "error: TARGETARCH is '${TARGETARCH}', but only amd64 and arm64 can be built" >&2; exit 1 ;; \
    esac \
    && echo "cpu=${cpu}" > /target \
    && if [ "${TARGETARCH}" != "$(dpkg --print-architecture)" ]; then \
      rustup target add "${cpu}-unknown-linux-gnu" \
      && apt-get update \
      && apt-get install --yes --no-install-recommends "gcc-${package}-linux-gnu" "libc6-dev-${TARGETARCH}-cross" \
      && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /src
COPY . .
ARG REVISION=unknown
# Linked statically: from 2.34 on, Debian's libc resolves names without loading a library. Packed relocations, which it knows from 2.36
# on, take 0.7 MB less, where the linker knows them too. What is compiled is not cached, because cargo judges by times, which a checkout
# may have put back.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    . /target \
    && export RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C linker=${cpu}-linux-gnu-gcc" \
    && export SCRAPETARGET_BUILD_REVISION="${REVISION}" \
    && cargo build --release --locked --target "${cpu}-unknown-linux-gnu" \
    && mv "target/${cpu}-unknown-linux-gnu/release/scrapetarget-exporter" /
# The texts of the licences come with what they are for. Compressed, they are a tenth of their size.
RUN mkdir /licenses && cp LICENSE /licenses/ && gzip -9n < THIRD-PARTY > /licenses/THIRD-PARTY.gz

# Runs no command, so that it can be built for every architecture, and without the stage above where the program is there already.
FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="scrapetarget-exporter" \
      org.opencontainers.image.description="A multi-target Prometheus exporter for Sora, FIWARE Orion and mediasoup, and for probes over HTTP, TCP, DNS, ICMP, gRPC, WebSocket, STUN and TURN" \
      org.opencontainers.image.url="https://github.com/scrapetarget/scrapetarget-exporter" \
      org.opencontainers.image.source="https://github.com/scrapetarget/scrapetarget-exporter" \
      org.opencontainers.image.documentation="https://github.com/scrapetarget/scrapetarget-exporter/blob/main/README.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /licenses/ /licenses/
COPY --from=build /scrapetarget-exporter /usr/local/bin/
# As a number: Kubernetes cannot see that a name is not root.
USER 65532:65532
EXPOSE 9850
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s CMD ["/usr/local/bin/scrapetarget-exporter", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/scrapetarget-exporter"]

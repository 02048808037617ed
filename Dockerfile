# The image of the cache: one static program, the authorities of registries, and a user without rights.
#
#   docker build -t oci-pull-through .
#
# scripts/image.sh writes the same image from a built program, without a daemon.
FROM rust:1-alpine AS build
RUN apk add --no-cache musl-dev gcc make ca-certificates
WORKDIR /source
COPY . .
RUN cargo build --release --locked \
 && mkdir -p /root-of-image/data /root-of-image/tmp /root-of-image/etc/ssl/certs /root-of-image/usr/local/bin \
 && cp target/release/oci-pull-through /root-of-image/usr/local/bin/ \
 && cp /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ \
 && echo 'cache:x:65532:65532:cache:/data:/sbin/nologin' >/root-of-image/etc/passwd \
 && echo 'cache:x:65532:' >/root-of-image/etc/group \
 && chmod 1777 /root-of-image/tmp && chmod 700 /root-of-image/data && chown 65532:65532 /root-of-image/data /root-of-image/tmp

FROM scratch
COPY --from=build /root-of-image /
ENV PATH=/usr/local/bin FS_ROOT=/data
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s CMD ["oci-pull-through", "healthcheck"]
LABEL org.opencontainers.image.title=oci-pull-through \
      org.opencontainers.image.description="A pull-only, pull-through cache for OCI registries" \
      org.opencontainers.image.licenses=Apache-2.0
ENTRYPOINT ["/usr/local/bin/oci-pull-through"]

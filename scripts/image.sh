#!/usr/bin/env bash
# Writes the container image as an OCI image layout, without a daemon. The Dockerfile describes the same image.
#
#   scripts/image.sh OUTPUT [ARCHITECTURE=BINARY...]
#
# OUTPUT is a directory that does not exist. Without binaries, the script builds a static one for this machine.
# Then, for example: skopeo copy oci:OUTPUT docker-archive:cache.tar:oci-pull-through:latest
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: scripts/image.sh OUTPUT [ARCHITECTURE=BINARY...]" >&2; exit 2; }
output=$1
shift
if [ $# = 0 ]; then
  machine=$(uname -m)
  rustup target add "$machine-unknown-linux-musl"
  cargo build --locked --release --target "$machine-unknown-linux-musl"
  binary=${CARGO_TARGET_DIR:-target}/$machine-unknown-linux-musl/release/oci-pull-through
  case $machine in x86_64) set -- "amd64=$binary" ;; aarch64) set -- "arm64=$binary" ;; *) echo "image.sh: unknown machine $machine" >&2; exit 1 ;; esac
fi
for binary; do
  # A program with an interpreter needs libraries, which the image does not have.
  if readelf --program-headers "${binary#*=}" | grep -q INTERP; then
    echo "image.sh: ${binary#*=} is not static; build it with --target $(uname -m)-unknown-linux-musl" >&2
    exit 1
  fi
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
exec python3 scripts/image/main.py "$output" "$version" "$@"

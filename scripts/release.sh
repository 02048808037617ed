#!/usr/bin/env bash
# Builds the stripped release binary, and its debug information as a separate file.
#
#   scripts/release.sh [CARGO_ARGUMENT...]
#
# The outputs are target/release/oci-pull-through and target/release/oci-pull-through.debug. gdb, perf and addr2line find
# the second file beside the first.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v objcopy >/dev/null || { echo "release.sh: objcopy is missing; install binutils" >&2; exit 1; }

# Cargo strips a release build, so that `cargo install` leaves a small binary.
cargo build --locked --release --config 'profile.release.strip="none"' "$@"
cd "${CARGO_TARGET_DIR:-target}/release"
objcopy --only-keep-debug oci-pull-through oci-pull-through.debug
# A new file, because cargo links the old one to deps/.
objcopy --strip-all --add-gnu-debuglink=oci-pull-through.debug oci-pull-through oci-pull-through.stripped
mv oci-pull-through.stripped oci-pull-through

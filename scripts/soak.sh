#!/usr/bin/env bash
# Mixed load with a fault in every second, for hours: tests/it/overload/soak.rs on a release.
#
#   scripts/soak.sh [SECONDS]      eight hours without
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --locked --release
SOAK_SECONDS=${1:-28800} TEST_BINARY=${CARGO_TARGET_DIR:-$PWD/target}/release/oci-pull-through \
  cargo test --quiet --locked --test it -- --nocapture soak::

#!/usr/bin/env bash
# Runs tests/it/overload/soak.rs on a release build: mixed load with a fault every second, for hours.
#
#   scripts/soak.sh [SECONDS]      eight hours by default
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --locked --release
SOAK_SECONDS=${1:-28800} TEST_BINARY=${CARGO_TARGET_DIR:-$PWD/target}/release/oci-pull-through \
  cargo test --quiet --locked --test it -- --nocapture soak::

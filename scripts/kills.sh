#!/usr/bin/env bash
# Kills a cache many times during evictions and removals, on a release build. Each kill must leave a sound store.
#
#   scripts/kills.sh [KILLS]      1,000 of each kind by default: about 3 minutes
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --locked --release
KILLS=${1:-1000} TEST_BINARY=${CARGO_TARGET_DIR:-$PWD/target}/release/oci-pull-through \
  cargo test --quiet --locked --test it -- --nocapture kill_during

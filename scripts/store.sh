#!/usr/bin/env bash
# Runs the long tests of the local store on an optimized build: random histories in which the eviction policy must spare
# young and pinned objects, the index of a million objects with its figures, and the scan and the list of a store with
# 100,000 objects.
#
#   scripts/store.sh [HISTORIES]      1,000,000 by default
set -euo pipefail
cd "$(dirname "$0")/.."

# Only the crate itself is built with more optimization. A release build would build all dependencies again.
optimized=(--quiet --locked --config 'profile.dev.package.oci-pull-through.opt-level=3')
PROPTEST_CASES=${1:-1000000} cargo test "${optimized[@]}" --lib -- eviction_policy::young
cargo test "${optimized[@]}" --lib -- --ignored --nocapture --test-threads 1 index_large
OBJECTS=100000 cargo test "${optimized[@]}" --test it -- --nocapture large_store

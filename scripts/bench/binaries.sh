# shellcheck shell=sh
# Sets the environment of the benchmarks. Sourced by scripts/bench.sh and scripts/growth.sh.

for tool in cargo python3; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is not installed" >&2; exit 2; }
done

# Unless set, load generator and server are built here, so that the measured code is the checked-out
# code.
if [ -z "${BENCH_LOAD:-}" ]; then
    BENCH_LOAD=$(cargo build --release --bench load --message-format=json-render-diagnostics |
        python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"] == ["bench"]:
        print(message["executable"])')
fi
if [ -z "${BENCH_OURS:-}" ]; then
    cargo build --release --bin oci-pull-through
    BENCH_OURS=${CARGO_TARGET_DIR:-target}/release/oci-pull-through
fi
BENCH_DIR=${BENCH_DIR:-${CARGO_TARGET_DIR:-target}/bench}
BENCH_CC=${BENCH_CC:-cubic}
# No compiled Python in the source tree.
PYTHONDONTWRITEBYTECODE=1
# A binary of this cache reads IO_DRIVER from the environment.
export BENCH_LOAD BENCH_OURS BENCH_DIR BENCH_CC PYTHONDONTWRITEBYTECODE

# 10,000 idle connections need as many descriptors on each side.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

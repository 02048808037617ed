#!/bin/sh
# Compares this cache with nginx (same files, sendfile) and with Debian's docker-registry, and prints a table.
#
#   scripts/bench.sh [quick|full] [case...]
#
# Cases: manifest-2k blob-64k blob-1m blob-16m blob-1g two-cores tag-head cold-stall cold-pull cold-many cold-image
#        registry-cold s3-hit tiered-warm idle-10k idle-h2c idle-tls tls-small tls-64k tls-1g tls-handshakes
#        h2c-small h2c-large h2-tls-small h2-tls-large (default: all).
# quick takes about 20 minutes, full longer. Needs two CPUs, python3 and nginx. Uses docker-registry if installed.
# s3-hit and tiered-warm need an S3 engine, found like in scripts/s3.sh: Garage (GARAGE) or moto (MOTO_SERVER).
#
#   BENCH_DIR     work directory, 8 GiB on a real disk        (target/bench)
#   BENCH_CC      TCP congestion control. As root, the benchmark sets it in a separate network namespace, so that the
#                 machine keeps its setting. "host": uses the host's network and setting        (cubic)
#   BENCH_ROUNDS  interleaved rounds                          (quick 3, full 5)
#   BENCH_OURS    binary of this cache, or "nginx" to compare nginx with itself, which shows the noise
#                                                             (target/release/oci-pull-through)
#   BENCH_BEFORE  an earlier binary of this cache, measured in the same rounds, with a separate column
#   BENCH_LOAD    binary of the load generator                (built from benches/load)
set -eu
cd "$(dirname "$0")/.."

case "${1:-quick}" in -h | --help)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

for tool in cargo python3; do
    command -v "$tool" >/dev/null || { echo "bench: $tool is not installed" >&2; exit 2; }
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

exec python3 scripts/bench/main.py "$@"

#!/bin/sh
# Compares this cache with nginx (same files, sendfile) and with Debian's docker-registry, and prints a table.
#
#   scripts/bench.sh [quick|full] [case...]
#
# Cases: manifest-2k blob-64k blob-1m blob-16m blob-1g two-cores tag-head cold-stall cold-pull cold-many cold-image
#        registry-cold s3-hit tiered-warm management-cost evict-beside-hits idle-10k idle-h2c idle-tls tls-small tls-64k tls-1g tls-handshakes
#        h2c-small h2c-large h2-tls-small h2-tls-large (default: all).
# full takes more and longer rounds than quick. Needs two CPUs, python3 and nginx. Uses docker-registry if installed.
# s3-hit and tiered-warm need an S3 engine, found like in scripts/s3.sh: Garage (GARAGE) or moto (MOTO_SERVER).
#
#   BENCH_DIR     work directory, 8 GiB on a real disk        (target/bench)
#   BENCH_CC      TCP congestion control. As root, the benchmark sets it in a separate network namespace, so that the
#                 machine keeps its setting. "host": uses the host's network and setting        (cubic)
#   BENCH_ROUNDS  interleaved rounds                          (quick 3, full 5)
#   BENCH_OURS    binary of this cache, or "nginx" to compare nginx with itself, which shows the noise
#                                                             (target/release/oci-pull-through)
#   BENCH_BEFORE  an earlier binary of this cache, measured in the same rounds, with a separate column
#   BENCH_DISTRIBUTION, BENCH_ZOT, BENCH_ANGOS
#                 binaries of further registries, for the rows of warm hits
#   BENCH_LOAD    binary of the load generator                (built from benches/load)
set -eu
cd "$(dirname "$0")/.."

case "${1:-quick}" in -h | --help)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

. scripts/bench/binaries.sh
exec python3 scripts/bench/main.py "$@"

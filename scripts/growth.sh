#!/bin/sh
# Measures how the cost of this cache grows, and writes raw figures, plot and tables.
#
#   scripts/growth.sh [part...]
#
# Parts: objects connections cores sizes followers registries (default: all), and page, which only draws the plot and
# the tables again. Needs two CPUs, python3 and nginx.
#
# Each part writes docs/development/growth/PART.csv. Afterwards, docs/development/growth.svg and the tables of
# docs/development/growth.md are drawn from all raw figures. BENCH_DIR, BENCH_OURS and BENCH_LOAD as in scripts/bench.sh.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in -h | --help)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

if [ "$*" = page ]; then
    PYTHONDONTWRITEBYTECODE=1 exec python3 scripts/growth/page.py
fi
. scripts/bench/binaries.sh
exec python3 scripts/growth/main.py "$@"

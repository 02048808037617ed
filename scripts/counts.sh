#!/bin/sh
# Counts the cost of a hit, instead of timing it, and fails if a count exceeds its bound in scripts/counts/bounds.py.
#
#   scripts/counts.sh [binary] [driver...]
#
# Counts per hit, by size, protocol and driver: system calls, file bytes copied to user space, instructions of a small hit,
# and allocations of a small hit. Needs Linux, python3 and strace. Takes less than a minute.
# Instructions and allocations need permission to trace processes. Allocations also need the symbols of the binary, or of the
# file that scripts/release.sh writes beside it.
#
#   COUNTS_DIR   work directory, 20 MiB on a real disk    (target/counts)
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in -h | --help)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

for tool in python3 strace; do
    command -v "$tool" >/dev/null || { echo "counts: $tool is not installed" >&2; exit 2; }
done
COUNTS_DIR=${COUNTS_DIR:-${CARGO_TARGET_DIR:-target}/counts}
# No compiled Python in the source tree.
PYTHONDONTWRITEBYTECODE=1
export COUNTS_DIR PYTHONDONTWRITEBYTECODE
binary=${1:-${CARGO_TARGET_DIR:-target}/release/oci-pull-through}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- io_uring epoll
exec python3 scripts/counts/main.py "$binary" "$@"

#!/bin/sh
# Overloads a running cache in ways that break servers, and checks that other clients are not affected.
#
#   scripts/overload.sh [quick|full] [binary] [case...]
#
# Cases: idle heads-and-readers stalled ends at-once shares streams fills (default: all). quick takes a minute. full takes
# about ten minutes and uses the specified sizes: 10,000 concurrent connections, 1,000,000 successive connections.
#
#   IO_DRIVER   the server's driver (auto, io_uring, epoll)
#   KEEP=1      keeps the working directory and prints its name
set -eu

case "${1:-quick}" in -h | --help)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

command -v python3 >/dev/null || { echo "overload: python3 is not installed" >&2; exit 2; }

# 10,000 connections need as many descriptors on each side.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

here=$(cd "$(dirname "$0")" && pwd)
size=${1:-quick}
binary=${2:-$here/../target/release/oci-pull-through}
[ $# -gt 2 ] && shift 2 || shift $#
# No compiled Python in the source tree.
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
exec python3 "$here/overload/main.py" "$size" "$binary" "$@"

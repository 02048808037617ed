#!/bin/sh
# Leans on a running cache in the ways that break servers, and checks that those who do not lean do not notice.
#
#   scripts/overload.sh [quick|full] [binary] [case...]
#
# Cases: idle heads-and-readers stalled ends at-once shares streams fills (default: all). quick takes a minute; full takes
# about ten and uses the sizes that are promised: 10,000 connections at once, 1,000,000 one after the other.
#
#   IO_DRIVER   the server's driver (auto, io_uring, epoll)
#   KEEP=1      leaves the working directory and prints its name
set -eu

case "${1:-quick}" in -h | --help)
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

command -v python3 >/dev/null || { echo "overload: python3 is missing" >&2; exit 2; }

# Ten thousand connections take as many descriptors on either side.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

here=$(cd "$(dirname "$0")" && pwd)
size=${1:-quick}
binary=${2:-$here/../target/release/oci-pull-through}
[ $# -gt 2 ] && shift 2 || shift $#
# No compiled Python in the source tree.
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
exec python3 "$here/overload/main.py" "$size" "$binary" "$@"

#!/usr/bin/env bash
# Real clients pull through the cache. The script builds the images, and Debian's docker-registry serves them on loopback.
#
#   scripts/clients.sh PART[,PART...]|all [BINARY]
#
#   public      public images: skopeo, podman, docker and containerd
#   private     private images, with credentials of the server and of the client
#   auth        client authentication at the cache
#   tls         TLS, certificates of the server and of clients (needs root)
#   h2          HTTP/2: curl, nghttp, h2load, Go, Python, h2spec
#   bundle      bundles of `export`: skopeo, podman, docker, containerd, oras and crane
#   signatures  cosign, oras and notation, built with `go` if missing
#
# BINARY         target/release/oci-pull-through by default.
# DRIVERS        values of IO_DRIVER; each part runs once for each value ("auto").
# JOBS           concurrent parts (2).
# CHECK_STRICT=1 a skipped check fails.
# LAYER_MB       size of the big layer (public: 208, tls: 4, others: 8).
# KEEP=1         keeps the working directory and prints its name.
# DIRECT=1       only for `public`: the clients pull from the upstream, to test the script itself.
# H2SPEC         the program h2spec; otherwise found in PATH, or built with Go.
# TOOLS          directory of built tools for signatures and bundles (~/.cache/oci-pull-through-tools).
#
# All state is in a temporary directory, the kernel chooses every port, and processes are ended by their IDs.
#
# shellcheck disable=SC2034 # common.sh and the parts use the variables.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
part=${1:-}
binary=${2:-${CARGO_TARGET_DIR:-$here/../target}/release/oci-pull-through}
direct=0
strict=${CHECK_STRICT:-0}
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

[ "$part" != all ] || part=public,private,auth,tls,h2,bundle,signatures
if [[ $part == *,* || ${DRIVERS:-auto} == *" "* ]]; then
  exec python3 "$here/clients/parallel.py" "$0" "$part" "$binary"
fi
export IO_DRIVER=${IO_DRIVER:-${DRIVERS:-auto}}

# The upstream's name in the cache does not resolve, so a client that bypasses the cache fails.
registry=open.test layer_mb=8
case $part in
  public) registry=registry.test layer_mb=208 direct=${DIRECT:-0} ;;
  private) registry=basic.test ;;
  auth | h2 | bundle) ;;
  tls) layer_mb=4 ;;
  signatures) registry=registry.test ;;
  *) usage ;;
esac
layer_mb=${LAYER_MB:-$layer_mb}
[ "$direct" = 1 ] || [ -x "$binary" ] || { echo "scripts/clients.sh: $binary is not an executable; expected the cache" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin

if [ "$part" = tls ] && [ -z "${CLIENTS_INSIDE:-}" ] && [ "$(id -u)" = 0 ] && unshare --net --mount true 2>/dev/null; then
  CLIENTS_INSIDE=1 exec unshare --net --mount "$0" "$part" "$binary"
fi
client=$part
work=$(mktemp -d "${TMPDIR:-/tmp}/clients.XXXXXX")

# Each part sources common.sh.
# shellcheck source=/dev/null
. "$here/clients/$part.sh"
summary

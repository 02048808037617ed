#!/usr/bin/env bash
# Checks the packages of scripts/packages.sh: by lintian and rpmlint, and by installations of the deb in a new Debian root.
#
#   scripts/packages-check.sh DIRECTORY
#
# Run as root. lintian, rpmlint and debootstrap must be installed. DEBIAN_MIRROR is the source of the root.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# = 1 ] || { echo "usage: scripts/packages-check.sh DIRECTORY" >&2; exit 2; }
deb=$(realpath "$1"/oci-pull-through_*.deb)
rpm=$(realpath "$1"/oci-pull-through-*.rpm)
root=$(mktemp -d "${TMPDIR:-/tmp}/packages-check.XXXXXX")
trap 'rm -rf "$root"' EXIT

lintian --allow-root --fail-on error,warning "$deb"
rpmlint -c "$here/deploy/packages/rpmlint.toml" --strict "$rpm"

debootstrap --variant=minbase stable "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >/dev/null
cp "$deb" "$root/package.deb"
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

inside dpkg -i /package.deb
inside oci-pull-through version
inside env CONFIG_FILE=/etc/oci-pull-through/config.yaml oci-pull-through config check
echo 'log_level: warn' >>"$root/etc/oci-pull-through/config.yaml"
# An upgrade, here to the same version, keeps a changed configuration.
inside dpkg -i /package.deb
grep -q 'log_level: warn' "$root/etc/oci-pull-through/config.yaml"
mkdir -p "$root/var/cache/private/oci-pull-through"
inside dpkg --remove oci-pull-through
[ -e "$root/etc/oci-pull-through/config.yaml" ] && [ -d "$root/var/cache/private/oci-pull-through" ]
inside dpkg --purge oci-pull-through
for path in etc/oci-pull-through var/cache/private/oci-pull-through usr/bin/oci-pull-through; do
  [ ! -e "$root/$path" ] || { echo "packages-check.sh: /$path remains after the purge" >&2; exit 1; }
done
echo "packages: lintian and rpmlint are clean; install, upgrade, remove and purge leave nothing unexpected"

#!/bin/sh
# Stops and disables the units before a removal, and not before an upgrade.
set -e
[ -d /run/systemd/system ] || exit 0
# dpkg: `remove`; rpm: 0 further versions.
case ${1:-} in
remove | 0) systemctl disable --now oci-pull-through.socket oci-pull-through.service ;;
esac

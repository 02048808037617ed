#!/bin/sh
# The service is not enabled or started by an installation. An upgrade restarts a running service. systemd holds the socket
# meanwhile, and the old process finishes its responses first.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
# The first argument is `configure` from dpkg and the number of installed versions from rpm. Only an upgrade from dpkg has
# a second argument.
case ${1:-} in
configure) [ -z "${2:-}" ] || systemctl try-restart oci-pull-through.service ;;
[2-9]) systemctl try-restart oci-pull-through.service ;;
esac

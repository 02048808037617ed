#!/bin/sh
# `apt purge` also removes the stored content. rpm has no such command, and leaves the content.
set -e
if [ "${1:-}" = purge ]; then
  rm -rf /var/cache/private/oci-pull-through /var/cache/oci-pull-through
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

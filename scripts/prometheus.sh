#!/bin/sh
# Tests the alerts, recording rules and dashboards of deploy/ with a real Prometheus on loopback.
#
#   scripts/prometheus.sh [BINARY] [quick]
#
# promtool checks the rules, runs their tests, and checks the names of the metrics. Then Prometheus scrapes caches with healthy
# traffic, in which no alert may fire, and caches with faults, in which each alert has to fire. At last, each panel of each
# dashboard and each recording rule has to return data. Grafana itself is not part of the test.
#
# BINARY           the cache (target/release/oci-pull-through)
# quick            15 seconds of healthy traffic instead of 10 minutes; the whole test then takes 90 seconds at most
# CHECK_STRICT=1   a missing tool fails instead of skipping the test
set -eu
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/prometheus.sh [BINARY] [quick]" >&2; exit 2; }
[ $# -le 2 ] || usage
binary=${1:-${CARGO_TARGET_DIR:-target}/release/oci-pull-through}
healthy_seconds=600
case ${2:-} in '') ;; quick) healthy_seconds=15 ;; *) usage ;; esac

for tool in python3 prometheus promtool openssl; do
  command -v "$tool" >/dev/null && continue
  if [ "${CHECK_STRICT:-0}" = 1 ]; then
    echo "FAILED  $tool is not installed (CHECK_STRICT=1 permits no skipped check)"
    exit 1
  fi
  echo "SKIP    $tool is not installed"
  echo "0 checks of alerts and dashboards passed"
  exit 0
done
[ -x "$binary" ] || { echo "$binary is not an executable; build the cache first" >&2; exit 2; }

promtool check rules deploy/prometheus/alerts.yaml deploy/prometheus/recording-rules.yaml
promtool test rules deploy/prometheus/tests/*.yaml
# No compiled Python in the source tree.
PYTHONDONTWRITEBYTECODE=1 exec python3 scripts/prometheus/main.py "$(realpath "$binary")" "$healthy_seconds"

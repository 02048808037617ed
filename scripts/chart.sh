#!/usr/bin/env bash
# Checks the Helm chart: renders the values in tests/chart/cases.yaml with helm 3 and helm 4, and validates the manifests.
#
#   scripts/chart.sh [--update] BINARY
#
# --update      writes the rendered manifests to tests/chart/golden.
# CHART_TOOLS   the directory of the tools (target/chart): helm by `go install`, kubernetes-validate by pip.
# HELMS         the helm programs, in place of those that the script installs.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/chart.sh [--update] BINARY" >&2; exit 2; }
arguments=()
if [ "${1:-}" = --update ]; then arguments+=(--update); shift; fi
[ $# = 1 ] || usage
tools=${CHART_TOOLS:-${CARGO_TARGET_DIR:-target}/chart}
mkdir -p "$tools"
tools=$(realpath "$tools")

# install VERSION: builds one major version of helm.
install() {
  [ -x "$tools/helm-$1/helm" ] || GOBIN=$tools/helm-$1 go install -ldflags='-s -w' "helm.sh/helm/${1%%.*}/cmd/helm@$1"
}
if [ -z "${HELMS:-}" ]; then
  versions=(v3.22.0 v4.3.1)
  for version in "${versions[@]}"; do install "$version"; done
  HELMS="${versions[*]/#/$tools/helm-}"
  HELMS=${HELMS// //helm }/helm
fi
if ! [ -x "$tools/venv/bin/python3" ]; then
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 pyyaml==6.0.3
fi
export HELMS
exec "$tools/venv/bin/python3" scripts/chart/main.py "${arguments[@]}" "$1"

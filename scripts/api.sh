#!/usr/bin/env bash
# Checks the description of the admin API (`src/admin/openapi.json`): by a linter, and by generated requests to a running cache.
#
#   scripts/api.sh [--requests N] [SCENARIOS]    SCENARIOS: the built test program; without it, the script builds one
#
# --requests N   at least N generated requests, such as 10000; without it about 1,000 requests in half a minute.
# API_TOOLS      the directory of the tools: schemathesis by pip and redocly by npm, installed there (target/api).
#                Without npm, the script skips the linter; `scripts/check.sh full --install` installs npm.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/api.sh [--requests N] [SCENARIOS]" >&2; exit 2; }
requests=0
if [ "${1:-}" = --requests ]; then
  requests=${2:-}
  [[ $requests =~ ^[1-9][0-9]{0,6}$ ]] || usage
  shift 2
fi
[ $# -le 1 ] || usage

tools=${API_TOOLS:-${CARGO_TARGET_DIR:-target}/api}
mkdir -p "$tools"
tools=$(realpath "$tools")

redocly=2.77.0
lint() {
  if ! command -v npm >/dev/null || ! node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))'; then
    echo "SKIPPED: linter of the description: npm with Node.js 20 or later is not installed"
    [ "${CHECK_STRICT:-0}" = 0 ]
    return
  fi
  if ! [ -e "$tools/redocly-$redocly" ]; then
    npm install --silent --no-audit --no-fund --prefix "$tools/redocly" "@redocly/cli@$redocly"
    touch "$tools/redocly-$redocly"
  fi
  # The tool sends statistics to its maker without this variable.
  REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
    "$tools/redocly/node_modules/.bin/redocly" lint --extends recommended src/admin/openapi.json
}
lint

if ! [ -x "$tools/bin/schemathesis" ]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
fi
# Each example of the setting makes some 18 requests in all operations and phases.
examples=${EXAMPLES:-20}
if [ "$requests" -gt 0 ]; then examples=$(((requests + 14) / 15)); fi
export SCHEMATHESIS=$tools/bin/schemathesis EXAMPLES=$examples
test=manage::description::generated_requests_are_answered_as_described
output=$(mktemp)
trap 'rm -f "$output"' EXIT
if [ $# = 1 ]; then program=("$1"); else program=(cargo test --quiet --test it --); fi
"${program[@]}" --ignored --exact --nocapture "$test" 2>&1 | tee "$output"
grep -q '1 passed' "$output"
summary=$(grep -oE '[0-9]+ generated, .*' "$output" | head -n 1)
generated=${summary%% *}
echo "admin API: $summary"
if [ "${generated:-0}" -lt "$requests" ]; then
  echo "only ${generated:-0} of $requests requests were generated; set EXAMPLES to more than $examples" >&2
  exit 1
fi

#!/usr/bin/env bash
# Compares the admin API of a running cache with its description (`src/admin/openapi.json`), by generated requests.
#
#   scripts/api.sh [SCENARIOS]    SCENARIOS: the built test program; without it, the script builds one
#
# EXAMPLES    generated requests for each operation and phase (20: about 1,000 requests in half a minute; 400: more than 10,000).
# API_TOOLS   the directory of schemathesis, installed by pip into an environment there (target/api).
set -euo pipefail
cd "$(dirname "$0")/.."

tools=${API_TOOLS:-${CARGO_TARGET_DIR:-target}/api}
mkdir -p "$tools"
tools=$(realpath "$tools")
if ! [ -x "$tools/bin/schemathesis" ]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
fi
export SCHEMATHESIS=$tools/bin/schemathesis EXAMPLES=${EXAMPLES:-20}
test=manage::description::generated_requests_are_answered_as_described
output=$(mktemp)
trap 'rm -f "$output"' EXIT
if [ $# = 1 ]; then program=("$1"); else program=(cargo test --quiet --test it --); fi
"${program[@]}" --ignored --exact --nocapture "$test" 2>&1 | tee "$output"
grep -q '1 passed' "$output"
echo "admin API: $(grep -o '[0-9]* generated, .*' "$output" | head -n 1)"

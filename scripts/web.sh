#!/usr/bin/env bash
# Checks the web page in a browser: weight, copy, accessibility, keyboard, hostile texts, downloads, restarts and small screens.
#
#   scripts/web.sh BINARY                  the checks
#   scripts/web.sh BINARY screenshots DIR  screenshots of all views at three widths, light and dark
#
# CHROMIUM    the browser (/usr/bin/chromium).
# WEB_TOOLS   the directory of playwright-core and axe by npm, installed there (target/web).
# ONLY        a regular expression that selects checks by name.
#             Without npm or the browser, the script skips its checks; `scripts/check.sh full --install` installs both.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/web.sh BINARY [screenshots DIR]" >&2; exit 2; }
program=checks.mjs output=()
case $# in
  1) ;;
  3) [ "$2" = screenshots ] || usage
     program=screenshots.mjs
     mkdir -p "$3"
     output=("$(realpath "$3")") ;;
  *) usage ;;
esac
binary=$(realpath "$1")
chromium=${CHROMIUM:-/usr/bin/chromium}

skip() {
  echo "SKIP  web page: $1"
  echo "the web page was not checked"
  [ "${CHECK_STRICT:-0}" = 0 ]
  exit
}
[ -x "$chromium" ] || skip "chromium is not installed"
if ! command -v npm >/dev/null || ! node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))'; then
  skip "npm with Node.js 20 or later is not installed"
fi

tools=${WEB_TOOLS:-${CARGO_TARGET_DIR:-target}/web}
mkdir -p "$tools"
# Node.js searches modules beside the program, so the programs are copied to the tools.
cp scripts/web/*.mjs scripts/web/package.json scripts/web/package-lock.json "$tools/"
if ! cmp -s "$tools/package-lock.json" "$tools/installed"; then
  npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$tools"
  cp "$tools/package-lock.json" "$tools/installed"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/web.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
CHROMIUM=$chromium timeout 900 node "$tools/$program" "$binary" "$scratch" "${output[@]}"

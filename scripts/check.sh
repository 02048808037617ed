#!/usr/bin/env bash
# Every check there is, in one line. On Debian as root the tools that are missing are installed with apt; elsewhere
# everything runs that needs no installation, and what was skipped is said, with the reason, here and at the end.
#
#   scripts/check.sh
#
# CHECK_STRICT=1  skipping anything fails (what `.ci/run` sets).
# CI=true         installs cargo-deny and Garage as well, which take minutes to build.
# ADVISORY_DB     a checkout or copy of https://github.com/RustSec/advisory-db, for machines that cannot reach it.
# LAYER_MB        size of the big layer real clients pull (208).
set -euo pipefail
cd "$(dirname "$0")/.."

strict=${CHECK_STRICT:-0}
export CHECK_STRICT=$strict
target=${CARGO_TARGET_DIR:-target}
log=$(mktemp "${TMPDIR:-/tmp}/check.XXXXXX")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/check.XXXXXX")
trap 'rm -rf "$log" "$scratch"' EXIT
trap 'exit 130' INT TERM
begun=$SECONDS
skipped=()
results=()

skip() {
  if [ "$strict" = 1 ]; then
    echo "FAILED: $* (nothing may be skipped)"
    exit 1
  fi
  skipped+=("$*")
  echo "SKIPPED: $*"
}

# step NAME COMMAND...: runs it, says how long it took, and ends everything when it fails.
step() {
  local name=$1 started=$SECONDS status
  shift
  echo "== $name"
  set +e
  (set -e; "$@")
  status=$?
  set -e
  if [ $status != 0 ]; then
    echo "== FAILED: $name ($((SECONDS - started)) s)"
    exit 1
  fi
  echo "== done: $name ($((SECONDS - started)) s)"
}

# ---- Tools ----------------------------------------------------------------------------------------------------------

# What real clients, power cuts and linking need; each as `command:package`.
tools=(cc:gcc make:make git:git jq:jq docker-registry:docker-registry skopeo:skopeo podman:podman dockerd:docker.io docker:docker-cli
  containerd:containerd runc:runc mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs mkfs.btrfs:btrfs-progs curl:curl mount:mount python3:python3 shellcheck:shellcheck
  nghttp:nghttp2-client go:golang-go htpasswd:apache2-utils openssl:openssl ip:iproute2 tinyproxy:tinyproxy squid:squid danted:dante-server
  docker-compose:docker-compose unshare:util-linux strace:strace conmon:conmon systemd-analyze:systemd)
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin:$HOME/.cargo/bin

missing_packages() {
  local tool
  for tool in "${tools[@]}"; do
    command -v "${tool%%:*}" >/dev/null || echo "${tool#*:}"
  done
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  # Debian's python3 has no pip for a new environment, which moto is installed into.
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
  # Of Debian's own Python: another one may come first, and has pip.
  /usr/bin/python3 -c 'import h2, httpx' 2>/dev/null || echo python3-h2 python3-httpx
}

install_tools() {
  local wanted packages=() package
  wanted=$(missing_packages)
  [ -n "$wanted" ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  for package in $wanted; do
    # Older releases have the docker command in docker.io itself.
    if [ "$package" = docker-cli ] && ! apt-cache show docker-cli >/dev/null 2>&1; then package=docker.io; fi
    packages+=("$package")
  done
  apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
}

if [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ] && [ -n "$(missing_packages)" ]; then
  step "install tools: $(missing_packages | tr '\n' ' ')" install_tools
fi
wanted=$(missing_packages | tr '\n' ' ')
[ -z "$wanted" ] || skip "what needs these packages, which only root on Debian installs: $wanted"

if ! cargo deny --version >/dev/null 2>&1 && [ "${CI:-}" = true ]; then
  # Optimising a program that runs once takes longer than it saves.
  step "install cargo-deny" env CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug cargo-deny
fi

# ---- Steps ----------------------------------------------------------------------------------------------------------

shell_scripts() {
  local files
  # Whatever begins with a shell's name, wherever it lies.
  mapfile -t files < <(git grep -lE '^#!.*[/ ](ba)?sh$' -- . ':!*.md'; git ls-files 'scripts/*.sh')
  mapfile -t files < <(printf '%s\n' "${files[@]}" | sort -u)
  for file in "${files[@]}"; do
    if head -n 1 "$file" | grep -qE '^#!.*[/ ]sh$'; then sh -n "$file"; else bash -n "$file"; fi
  done
  # SC3045: `ulimit -n` is not POSIX, but every sh there is has it.
  if command -v shellcheck >/dev/null; then shellcheck -x --severity=warning --exclude=SC3045 "${files[@]}"; fi
}

# Advisories need the database: fetched, or a copy where cargo-deny looks for what it fetched earlier.
advisories() {
  if [ -z "${ADVISORY_DB:-}" ]; then
    cargo deny --log-level error --config .deny.toml check advisories
    return
  fi
  # The number is cargo-deny's hash of the database's address.
  local copy=$scratch/advisory-dbs/advisory-db-3157b0e258782691
  mkdir -p "$scratch/advisory-dbs"
  cp -r "$ADVISORY_DB" "$copy"
  rm -rf "$copy/.git"
  git -C "$copy" init -q
  git -C "$copy" add .
  git -C "$copy" -c user.name=check -c user.email=check@localhost commit -qm snapshot
  sed "s|^\[advisories\]|&\ndb-path = \"$scratch/advisory-dbs\"|" .deny.toml >"$scratch/deny.toml"
  cargo deny --log-level error --offline --config "$scratch/deny.toml" check advisories
}

# failures: seeds and panics of the tests that failed, and the end of the log, in which servers may have written a lot.
failures() {
  sed -n '/^failures:$/,$p' "$log" | grep -A 20 -E '^---- |SEED=|panicked at' | head -n 300
  tail -n 50 "$log"
}

# run_tests DRIVER: everything cargo knows to test; the log keeps all, the screen shows one line per test.
run_tests() {
  set -o pipefail
  TEST_IO_DRIVER=$1 cargo test --locked -- --show-output 2>&1 | tee "$log" | grep --line-buffered -E '^(test |running |error|warning: unused)|Running|^SKIPPED' ||
    { failures; return 1; }
}

# tests DRIVER: the step, then what it counted and skipped.
tests() {
  local line
  step "tests on $1" run_tests "$1"
  results+=("$(awk -v driver="$1" '/^test result:/ {passed += $4; failed += $6; ignored += $8}
    END {printf "%d tests passed on %s, %d failed, %d ignored", passed, driver, failed, ignored}' "$log")")
  while read -r line; do skip "in tests on $1: ${line#SKIPPED: }"; done < <(grep '^SKIPPED' "$log" | sort -u)
}

# Kills, panics and stalls at chosen places: a build of its own, because no release has these places.
run_fail_points() {
  set -o pipefail
  cargo test --locked --features fail-points --test it -- crash:: panic:: watchdog:: --show-output 2>&1 | tee "$log" |
    grep --line-buffered -E '^(test |running |error|warning: unused)|^SKIPPED' || { failures; return 1; }
}

fail_points() {
  step "kills, panics and stalls at fail points" run_fail_points
  results+=("$(awk '/^test result:/ {print $4 " tests passed with fail points, " $6 " failed, " $8 " ignored"}' "$log")")
}

# What waits for limits of a minute and more: all at once, so that it takes as long as the longest. The measurement of
# adversaries runs with few pulls.
waiting_tests() {
  set -o pipefail
  PULLS=5 cargo test --locked --test it -- --ignored --test-threads=16 2>&1 | tee "$log" | grep --line-buffered -E '^(test |error)' ||
    { failures; return 1; }
}

run_clients() {
  set -o pipefail
  DRIVERS=$1 scripts/clients.sh "$2" "$target/release/oci-pull-through" 2>&1 | tee "$log"
}

# The core themes once more, on a store behind which there is a bucket.
run_bucket_tests() {
  set -o pipefail
  TEST_STORAGE=tiered cargo test --locked --test it -- cold_and_warm:: fill:: range:: lifetime:: stale_while_revalidate:: resume:: integrity:: private:: wire:: 2>&1 |
    tee "$log" | grep --line-buffered -E '^(test |error)' || { failures; return 1; }
}

# s3.sh: with the engine that has to be built where that may take its time.
run_s3() {
  local garage=()
  [ "${CI:-}" != true ] || garage=(garage)
  set -o pipefail
  scripts/s3.sh "${garage[@]}" "$target/release/oci-pull-through" 2>&1 | tee "$log"
}

s3_engines() {
  local line
  step "S3 engines" run_s3
  results+=("S3 engines: $(tail -n 1 "$log")")
  while read -r line; do skipped+=("S3 engines: ${line#SKIP  }"); done < <(grep '^SKIP ' "$log")
}

compose_file() { cd deploy && docker-compose config -q; }

# What is installed elsewhere is here, and the rest as it is.
service_units() {
  local binary
  binary=$(realpath "$target/release/oci-pull-through")
  mkdir "$scratch/units"
  cp deploy/oci-pull-through.service deploy/oci-pull-through.socket "$scratch/units/"
  sed -i "s#^ExecStart=[^ ]*#ExecStart=$binary#" "$scratch/units/oci-pull-through.service"
  systemd-analyze verify "$scratch"/units/*
}

run_overload() {
  set -o pipefail
  IO_DRIVER=$1 scripts/overload.sh quick "$target/release/oci-pull-through" 2>&1 | tee "$log"
}

run_drivers() {
  set -o pipefail
  scripts/drivers.sh "$target/release/oci-pull-through" 2>&1 | tee "$log"
}

# Both drivers under the filters of containers.
drivers() {
  local line
  step "drivers in containers" run_drivers
  results+=("drivers in containers: $(tail -n 1 "$log")")
  while read -r line; do skipped+=("drivers in containers: ${line#SKIP  }"); done < <(grep '^SKIP ' "$log")
}

# overload DRIVER
overload() {
  step "overload on $1" run_overload "$1"
  results+=("overload on $1: $(tail -n 1 "$log")")
}

# clients DRIVER PART WHAT
clients() {
  local what="real clients on $1, $3"
  step "$what" run_clients "$1" "$2"
  results+=("$what: $(tail -n 1 "$log")")
  while read -r line; do skipped+=("$what: ${line#SKIP  }"); done < <(grep '^SKIP ' "$log")
}

step "format" cargo fmt --check
step "shell scripts" shell_scripts
step "clippy" cargo clippy --quiet --locked --all-targets -- -D warnings
step "clippy with fail points" cargo clippy --quiet --locked --all-targets --features fail-points -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --document-private-items
if cargo deny --version >/dev/null 2>&1; then
  step "licences, bans and sources" cargo deny --log-level error --config .deny.toml check licenses bans sources
  if [ -n "${ADVISORY_DB:-}" ] || git ls-remote -q https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
    step "advisories" advisories
  else
    # Not even strictness can make a network: said aloud, but no failure.
    skipped+=("advisories: the database cannot be reached; set ADVISORY_DB to a copy")
  fi
else
  skip "licences and advisories: cargo-deny is not installed (cargo install --locked cargo-deny)"
fi
step "build" cargo build --quiet --locked --release
tests auto
tests epoll
fail_points
step "tests that wait for limits" waiting_tests
step "tests with a bucket behind the store" run_bucket_tests
results+=("$(awk '/^test result:/ {print $4 " tests passed with a bucket behind the store, " $6 " failed"}' "$log")")
s3_engines
if command -v docker-compose >/dev/null; then step "compose file" compose_file; fi
if command -v systemd-analyze >/dev/null; then step "service units" service_units; fi
drivers
for driver in auto epoll; do
  overload $driver
  clients $driver public "public images"
  clients $driver private "private images"
  clients $driver auth "client authentication"
  clients $driver tls TLS
  [ $driver != auto ] || clients $driver h2 HTTP/2
done

echo
[ ${#skipped[@]} = 0 ] || printf 'skipped: %s\n' "${skipped[@]}"
printf '%s\n' "${results[@]}"
echo "all checks passed in $((SECONDS - begun)) s, ${#skipped[@]} skipped"

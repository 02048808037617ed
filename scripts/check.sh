#!/usr/bin/env bash
# The checks of the project.
#
#   scripts/check.sh                    format, clippy, unit tests, and the scenarios on one driver; installs nothing
#   scripts/check.sh full [--install]   every check; --install installs missing tools: with apt on Debian as root, and with cargo
#
# On two cores, the quick checks take 8 to 12 minutes from a fresh clone, the full checks 45 with a finished build. If a tool is
# missing, its check is skipped with a reason. The end of the output lists skipped checks, and the checks that only `full` runs.
#
# CHECK_STRICT=1      a skipped check fails (`.ci/run` sets it).
# ADVISORY_DB         a checkout or copy of https://github.com/RustSec/advisory-db, for machines without access to GitHub.
# LAYER_MB            size of the big layer that real clients pull (208).
# RUST_TEST_THREADS   concurrent scenarios (one per core; the quick checks run two per core, up to twelve).
# JOBS                concurrent parts of the real clients (2).
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/check.sh [full [--install]]" >&2; exit 2; }
mode=quick install=0
[ $# -le 2 ] || usage
case ${1:-} in '') ;; full) mode=full ;; *) usage ;; esac
case ${2:-} in '') ;; --install) install=1 ;; *) usage ;; esac

strict=${CHECK_STRICT:-0}
export CHECK_STRICT=$strict
target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/check.XXXXXX")
log=$scratch/log
beside_pid=
cleanup() {
  [ -z "$beside_pid" ] || kill -- "-$beside_pid" 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
begun=$SECONDS
skipped=()
results=()
# In full mode, the tests are built once with fail points. Only `FAIL_POINT` in the environment
# activates a fail point.
features=()
[ $mode = quick ] || features=(--features fail-points)
cores=$(nproc)
# With one test per core, the tests of `full` that measure time are undisturbed.
threads=$cores
[ $mode = full ] || threads=$((cores * 2 < 12 ? cores * 2 : (cores < 12 ? 12 : cores)))
threads=${RUST_TEST_THREADS:-$threads}
unset RUST_TEST_THREADS

skip() {
  if [ "$strict" = 1 ]; then
    echo "FAILED: $* (CHECK_STRICT=1 permits no skipped check)"
    exit 1
  fi
  skipped+=("$*")
  echo "SKIPPED: $*"
}

# step NAME COMMAND...: runs COMMAND, prints its duration, and ends the script on failure.
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

# beside NAME COMMAND...: runs a CPU-bound step in the background at the lowest priority,
# concurrently with tests that mostly wait. `join` waits for the step.
beside() {
  beside_name=$1 beside_started=$SECONDS
  shift
  echo "== $beside_name, concurrently with the next steps"
  set -m
  (
    trap - EXIT
    set -e
    renice -n 19 -p $BASHPID >/dev/null
    "$@"
    echo $SECONDS >"$scratch/beside.end"
  ) >"$scratch/beside.log" 2>&1 &
  beside_pid=$!
  set +m
}

# join: waits for the command of `beside`, if any, prints its output and duration, and ends the script
# on failure.
join() {
  local status=0
  [ -n "$beside_pid" ] || return 0
  wait "$beside_pid" || status=$?
  beside_pid=
  cat "$scratch/beside.log"
  if [ $status != 0 ]; then
    echo "== FAILED: $beside_name"
    exit 1
  fi
  echo "== done: $beside_name ($(($(cat "$scratch/beside.end") - beside_started)) s)"
}

# ---- Tools ----------------------------------------------------------------------------------------------------------

# Tools for real clients, power cuts, linking and linting, each as `command:package`.
tools=(cc:gcc make:make objcopy:binutils git:git jq:jq docker-registry:docker-registry skopeo:skopeo podman:podman dockerd:docker.io docker:docker-cli
  containerd:containerd runc:runc mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs mkfs.btrfs:btrfs-progs curl:curl mount:mount python3:python3 npm:npm shellcheck:shellcheck
  nghttp:nghttp2-client go:golang-go htpasswd:apache2-utils openssl:openssl ip:iproute2 tinyproxy:tinyproxy squid:squid danted:dante-server
  docker-compose:docker-compose unshare:util-linux nsenter:util-linux strace:strace conmon:conmon systemd-analyze:systemd codespell:codespell zstd:zstd
  promtool:prometheus chromium:chromium)
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin:$HOME/.cargo/bin

missing_packages() {
  local tool
  for tool in "${tools[@]}"; do
    command -v "${tool%%:*}" >/dev/null || echo "${tool#*:}"
  done
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  # Without python3-venv, Debian's python3 cannot create environments with pip. moto is installed
  # into an environment.
  python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
  # Debian's own Python. Another Python may come first in PATH and has pip.
  /usr/bin/python3 -c 'import h2, httpx' 2>/dev/null || echo python3-h2 python3-httpx
}

install_packages() {
  local packages=() package
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  for package in $(missing_packages); do
    # In older Debian releases, docker.io contains the docker command.
    if [ "$package" = docker-cli ] && ! apt-cache show docker-cli >/dev/null 2>&1; then package=docker.io; fi
    packages+=("$package")
  done
  apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
}

install_tools() {
  if [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ] && [ -n "$(missing_packages)" ]; then
    step "install packages: $(missing_packages | tr '\n' ' ')" install_packages
  fi
  if ! cargo deny --version >/dev/null 2>&1; then
    # An optimized build takes longer than a single run saves.
    step "install cargo-deny" env CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug cargo-deny
  fi
}

# ---- Steps ----------------------------------------------------------------------------------------------------------

shell_scripts() {
  local files
  # All files with the shebang line of a shell, in every directory.
  mapfile -t files < <(git grep -lE '^#!.*[/ ](ba)?sh$' -- . ':!*.md'; git ls-files 'scripts/*.sh')
  mapfile -t files < <(printf '%s\n' "${files[@]}" | sort -u)
  for file in "${files[@]}"; do
    if head -n 1 "$file" | grep -qE '^#!.*[/ ]sh$'; then sh -n "$file"; else bash -n "$file"; fi
  done
  # SC3045: `ulimit -n` is not POSIX, but every common sh supports it.
  if command -v shellcheck >/dev/null; then shellcheck -x --severity=warning --exclude=SC3045 "${files[@]}"; fi
}

# Configured by .codespellrc.
spelling() { git ls-files -z -- ':!*.lock' ':!fuzz/seeds' | xargs -0 codespell; }

# The advisory check needs the database: downloaded, or copied to cargo-deny's download directory.
advisories() {
  if [ -z "${ADVISORY_DB:-}" ]; then
    cargo deny --log-level error --config .deny.toml check advisories
    return
  fi
  # The number is cargo-deny's hash of the database URL.
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

# failures: prints seeds and panics of failed tests, and the end of the log, because servers may
# have written a lot.
failures() {
  sed -n '/^failures:$/,$p' "$log" | grep -A 20 -E '^---- |SEED=|panicked at' | head -n 300
  tail -n 50 "$log"
}

# build_tests: builds the tests. `program` returns their paths, so that tests run even if a `beside`
# step holds cargo's lock.
build_tests() {
  cargo test --locked --no-run "${features[@]}" >"$scratch/built" 2>&1 || { cat "$scratch/built"; return 1; }
  run_tests cargo test --locked "${features[@]}" --doc
}

# program SOURCE: prints the path of the test program built from SOURCE.
program() { sed -n "s#^ *Executable .*$1 (\(.*\))\$#\1#p" "$scratch/built"; }

# run_tests COMMAND...: writes all output to the log, and one line per test to the screen.
run_tests() {
  set -o pipefail
  "$@" 2>&1 | tee -a "$log" | grep --line-buffered -E '^(test |running |error|warning: unused)|Running|^SKIPPED' || { failures; return 1; }
}

# tests NAME COMMAND...: runs a step of tests, and records its counts and skipped tests.
tests() {
  local line name=$1
  : >"$log"
  step "$@"
  results+=("$(awk -v name="$name" '/^test result:/ {passed += $4; failed += $6; ignored += $8}
    END {printf "%s: %d passed, %d failed, %d ignored", name, passed, failed, ignored}' "$log")")
  while read -r line; do skip "$name: ${line#SKIPPED: }"; done < <(grep '^SKIPPED' "$log" | sort -u)
}

# The unit tests use no I/O driver. Some measure time, so the number of test threads equals the
# number of cores.
unit_tests() {
  run_tests "$(program src/lib.rs)" --show-output
  run_tests "$(program src/main.rs)" --show-output
}

# scenarios ARGUMENT...
scenarios() { run_tests "$(program tests/it/main.rs)" "$@"; }

alone=in_a_memory_group_that_is_far_too_small
# These tests measure the memory of a server, which grows with the load of the machine.
measured=(small_objects_take_the_memory_cache hold_no_memory idle_connections_cost_little a_hundred_clients_of_one_cold_blob cost_bounded_memory a_thousand_idle_)
scenarios_on() {
  local test skips=(--skip "$alone")
  for test in "${measured[@]}"; do skips+=(--skip "$test"); done
  TEST_IO_DRIVER=$1 scenarios --show-output --test-threads="$threads" "${skips[@]}"
}
measured_on() { TEST_IO_DRIVER=$1 scenarios --show-output --test-threads=1 "${measured[@]}"; }

# If other tests write to the disk, the kernel may kill a server in a small memory cgroup before the
# cgroup's pages are written back. This test therefore runs alone. The test itself covers each
# driver.
short_memory() { scenarios --show-output $alone; }

# Tests that wait for limits of a minute and more. All run concurrently, so that the step takes as
# long as the longest test. The measurement of adversaries uses few pulls.
waiting_tests() { PULLS=5 scenarios --ignored --test-threads=16 --skip generated_requests; }

# Repeats the core topics with a disk store in front of a bucket.
bucket_tests() {
  TEST_STORAGE=tiered scenarios cold_and_warm:: fill:: range:: lifetime:: stale_while_revalidate:: resume:: integrity:: private:: wire:: \
    --test-threads="$threads"
}

# script NAME COMMAND...: runs a step that prints skipped checks, and its result in the last line.
script() {
  local line name=$1
  shift
  step "$name" logged "$@"
  results+=("$name: $(tail -n 1 "$log")")
  while read -r line; do skipped+=("$name: ${line#SKIP  }"); done < <(grep '^SKIP ' "$log")
}

logged() {
  set -o pipefail
  "$@" 2>&1 | tee "$log"
}

compose_file() { cd deploy && docker-compose config -q; }

# Replaces paths of the installation target by paths of this machine.
service_units() {
  local binary
  binary=$(realpath "$target/release/oci-pull-through")
  mkdir "$scratch/units"
  cp deploy/oci-pull-through.service deploy/oci-pull-through.socket "$scratch/units/"
  sed -i "s#^ExecStart=[^ ]*#ExecStart=$binary#" "$scratch/units/oci-pull-through.service"
  systemd-analyze verify "$scratch"/units/*
}

clippy() { cargo clippy --quiet --locked "$@" -- -D warnings; }

# ---- The run --------------------------------------------------------------------------------------------------------

finish() {
  echo
  [ ${#skipped[@]} = 0 ] || printf 'skipped: %s\n' "${skipped[@]}"
  [ ${#results[@]} = 0 ] || printf '%s\n' "${results[@]}"
  echo "$1 in $((SECONDS - begun)) s, ${#skipped[@]} skipped"
}

quick() {
  step "format" cargo fmt --check
  step "build of the tests" build_tests
  beside "clippy" clippy --all-targets
  tests "unit tests" unit_tests
  tests "scenarios on auto" scenarios_on auto
  join
  tests "memory of the server on auto" measured_on auto
  tests "short memory" short_memory
  finish "the quick checks passed"
  cat <<'END'
Only `scripts/check.sh full` runs:
  scenarios on epoll, with fail points, with a bucket, and those that wait for limits of a minute
  counts per hit, admin API, alerts and dashboards, web page, chart, S3 engines, drivers in containers, overload
  real clients (skopeo, podman, docker, containerd, curl, Go, Python), air gap
  documentation, licences and advisories, shell scripts, spelling, compose file, service units
END
}

full() {
  local wanted binary=$target/release/oci-pull-through debug=$target/debug/oci-pull-through driver line garage=()
  [ $install = 0 ] || install_tools
  wanted=$(missing_packages | tr '\n' ' ')
  [ -z "$wanted" ] || skip "checks that need these packages, which --install installs on Debian as root: $wanted"

  step "format" cargo fmt --check
  step "shell scripts" shell_scripts
  if command -v codespell >/dev/null; then step "spelling" spelling; else skip "spelling: codespell is not installed"; fi
  step "clippy" clippy --all-targets
  # Only the library and the scenarios have fail points.
  step "clippy with fail points" clippy --lib --test it --features fail-points
  step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --document-private-items
  if cargo deny --version >/dev/null 2>&1; then
    step "licences, bans and sources" cargo deny --log-level error --config .deny.toml check licenses bans sources
    if [ -n "${ADVISORY_DB:-}" ] || git ls-remote -q https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
      step "advisories" advisories
    else
      # CHECK_STRICT cannot provide a network, so the step is listed as skipped, without a failure.
      skipped+=("advisories: the database cannot be reached; expected network access, or a copy in ADVISORY_DB")
    fi
  else
    skip "licences and advisories: cargo-deny is not installed (cargo install --locked cargo-deny)"
  fi

  step "build of the tests" build_tests
  tests "unit tests" unit_tests
  # The script builds helm, which takes minutes.
  if command -v go >/dev/null; then beside "chart" scripts/chart.sh "$debug"; else skip "chart: go is not installed"; fi
  for driver in auto epoll; do
    tests "scenarios on $driver" scenarios_on $driver
    join
    tests "memory of the server on $driver" measured_on $driver
  done
  tests "short memory" short_memory
  beside "build of the release" scripts/release.sh --quiet
  tests "tests that wait for limits" waiting_tests
  tests "scenarios with a bucket behind the store" bucket_tests
  script "admin API" scripts/api.sh "$(program tests/it/main.rs)"
  script "alerts and dashboards" scripts/prometheus.sh "$debug" quick
  script "web page" scripts/web.sh "$debug"
  script "air gap" scripts/air-gap.sh "$debug" quick
  join
  # Garage is built from source, which takes minutes.
  [ $install = 0 ] || garage=(garage)
  if command -v python3 >/dev/null && command -v strace >/dev/null; then
    script "counts per hit" scripts/counts.sh "$binary"
  else
    skip "counts per hit: python3 or strace is not installed"
  fi
  script "S3 engines" env LIBRARY_TESTS="$(program src/lib.rs)" scripts/s3.sh "${garage[@]}" "$binary"
  if command -v docker-compose >/dev/null; then step "compose file" compose_file; fi
  if command -v systemd-analyze >/dev/null; then step "service units" service_units; fi
  script "drivers in containers" scripts/drivers.sh "$binary"
  for driver in auto epoll; do script "overload on $driver" env IO_DRIVER=$driver scripts/overload.sh quick "$binary"; done
  if command -v python3 >/dev/null; then
    step "real clients" logged env DRIVERS="auto epoll" scripts/clients.sh public,private,auth,tls,h2,bundle "$binary"
    while read -r line; do results+=("real clients, $line"); done < <(grep -E ': [0-9]+ passed, ' "$log")
    while read -r line; do skipped+=("real clients: ${line#SKIP  }"); done < <(grep '^SKIP ' "$log")
  else
    skip "real clients: python3 is not installed"
  fi
  finish "all checks passed"
}

$mode

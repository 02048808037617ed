#!/usr/bin/env bash
# The tests under Miri, AddressSanitizer (LeakSanitizer is part of it) and ThreadSanitizer; the last two on both drivers. A line
# of result for each run. A finding or a failed test ends the script with 1, after the other runs.
#
#   scripts/sanitize.sh [miri|address|thread ...]      all three without
#
# DRIVERS    what TEST_IO_DRIVER is in turn ("auto epoll").
# SCENARIOS  filters of tests/it ("pull:: fill::"), `all` for no filter; without, the themes listed below.
#
# Needs the nightly toolchain with rust-src and miri, and llvm-symbolizer: suppressions name functions. Each tool builds
# into a directory of its own in the target directory, where its log and its reports lie too.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra drivers <<<"${DRIVERS:-auto epoll}"
target=${CARGO_TARGET_DIR:-$PWD/target}
triple=x86_64-unknown-linux-gnu
here=$PWD/scripts/sanitize
failed=0

for component in rust-src miri; do
  rustup component list --toolchain nightly --installed 2>/dev/null | grep -q "^$component" ||
    { echo "needs: rustup toolchain install nightly --component rust-src,miri" >&2; exit 2; }
done

# lines FILE: the words of a list, without comments.
lines() { sed 's/#.*//' "$1" | xargs -n 1; }

# result NAME STARTED LOG REPORTS STATUS: the line of a run.
result() {
  local name=$1 seconds=$((SECONDS - $2)) log=$3 reports=$4 status=$5 counts verdict=ok
  counts=$(awk '/^test result:/ {passed += $4; failed += $6} END {printf "%d tests passed, %d failed", passed, failed}' "$log")
  if [ "$status" != 0 ] || [ "$reports" != 0 ]; then verdict=FAILED failed=1; fi
  echo "$verdict: $name: $counts, $reports findings ($seconds s)"
}

# watched SANITIZER [CARGO FLAG...]: builds everything with it, and runs library and scenarios on each driver.
watched() {
  local sanitizer=$1 driver work log reports status started skips=() scenarios=() skip options
  shift
  work=$target/$sanitizer/sanitize
  mkdir -p "$work"
  while read -r skip; do skips+=(--skip "$skip"); done < <(lines "$here/skipped"; lines "$here/skipped.$sanitizer")
  case ${SCENARIOS:-} in
    all) ;;
    '') mapfile -t scenarios < <(lines "$here/scenarios") ;;
    *) read -ra scenarios <<<"$SCENARIOS" ;;
  esac
  export CARGO_TARGET_DIR=$target/$sanitizer RUSTFLAGS="-Zsanitizer=$sanitizer --cfg sanitizer"
  started=$SECONDS
  cargo +nightly test --quiet --locked --target $triple "$@" --lib --test it --no-run 2>"$work/build.log" ||
    { tail -n 30 "$work/build.log"; echo "FAILED: $sanitizer: no build"; failed=1; return; }
  echo "built: $sanitizer ($((SECONDS - started)) s)"
  for driver in "${drivers[@]}"; do
    log=$work/$driver.log reports=$work/$driver.reports status=0 started=$SECONDS
    rm -rf "$reports"
    mkdir -m 1777 "$reports"
    # What runs is watched wherever it runs, and reports in files: servers end in many ways, and tests read what they say.
    options=log_path=$reports/report:halt_on_error=1
    export ASAN_OPTIONS=$options:detect_leaks=1 LSAN_OPTIONS=suppressions=$here/leak.supp:print_suppressions=0
    export TSAN_OPTIONS=$options:suppressions=$here/thread.supp:second_deadlock_stack=1
    {
      cargo +nightly test --locked --target $triple "$@" --lib --no-fail-fast -- "${skips[@]}" || status=1
      cargo +nightly test --locked --target $triple "$@" --test it --no-fail-fast -- "${scenarios[@]}" "${skips[@]}" || status=1
    } >"$log" 2>&1
    result "$sanitizer, $driver" "$started" "$log" "$(find "$reports" -type f | wc -l)" $status
    grep -E '^test .*FAILED$' "$log" || true
    grep -rhE '^(WARNING|==[0-9]+==ERROR|SUMMARY):' "$reports" | sort | uniq -c || true
  done
}

# interpreted: the tests of the library that Miri can run, once.
interpreted() {
  local work=$target/miri/sanitize log status=0 started=$SECONDS chosen=() skips=() skip
  log=$work/log
  mkdir -p "$work"
  mapfile -t chosen < <(lines "$here/miri")
  while read -r skip; do skips+=(--skip "$skip"); done < <(lines "$here/skipped.miri")
  # Files are read (seeds, settings of proptest), and the clock is; random tests take a few turns, each a thousand times as long.
  CARGO_TARGET_DIR=$target/miri MIRIFLAGS=-Zmiri-disable-isolation FUZZ_RUNS=${FUZZ_RUNS:-20} PROPTEST_CASES=${PROPTEST_CASES:-4} \
    cargo +nightly miri test --locked --lib -- "${chosen[@]}" "${skips[@]}" >"$log" 2>&1 || status=1
  result miri "$started" "$log" "$(grep -c '^error: Undefined Behavior' "$log" || true)" $status
  [ $status = 0 ] || grep -aE -A 12 '^error|^test .*FAILED$|panicked at' "$log" | head -n 60
}

[ $# -gt 0 ] || set -- miri address thread
for tool; do
  case $tool in
    miri) (interpreted; exit $failed) || failed=1 ;;
    address) (watched address; exit $failed) || failed=1 ;;
    # Its own standard library, because the one that is shipped synchronises unseen.
    thread) (watched thread -Zbuild-std; exit $failed) || failed=1 ;;
    *) echo "usage: scripts/sanitize.sh [miri|address|thread ...]" >&2; exit 2 ;;
  esac
done
exit $failed

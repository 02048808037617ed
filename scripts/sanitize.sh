#!/usr/bin/env bash
# Runs the tests under Miri, AddressSanitizer (with LeakSanitizer) and ThreadSanitizer. Prints a result line for each run.
# After a finding or a failed test, the script finishes the other runs and exits with 1.
#
#   scripts/sanitize.sh [miri|address|thread ...]      all three by default
#
# DRIVERS    values of TEST_IO_DRIVER, in this order ("auto epoll").
# SCENARIOS  filters of tests/it ("pull:: tags::"), `all` for no filter; by default those in sanitize/scenarios.
#
# Needs the nightly toolchain with rust-src and miri, and llvm-symbolizer, because suppressions name functions. Each tool
# builds into a separate directory below target/, which also contains logs and reports. The server and the library's tests
# are instrumented. The harness of the scenarios is not, because it processes a lot of bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra drivers <<<"${DRIVERS:-auto epoll}"
target=${CARGO_TARGET_DIR:-$PWD/target}
triple=x86_64-unknown-linux-gnu
here=$PWD/scripts/sanitize
failed=0

components=$(rustup component list --toolchain nightly --installed 2>/dev/null || true)
for component in rust-src miri; do
  [[ $components == *$component* ]] ||
    { echo "$component is not installed; run rustup toolchain install nightly --component rust-src,miri" >&2; exit 2; }
done
command -v llvm-symbolizer >/dev/null || { echo "llvm-symbolizer is not installed; run apt-get install llvm" >&2; exit 2; }

# lines FILE: prints the words of a list, without comments.
lines() { sed 's/#.*//' "$1" | xargs -rn 1; }

# result NAME STARTED LOG REPORTS STATUS: prints the result line of a run.
result() {
  local name=$1 seconds=$((SECONDS - $2)) log=$3 reports=$4 status=$5 counts verdict=ok
  counts=$(awk '/^test result:/ {passed += $4; failed += $6} /^second try:/ {second += $4}
    END {printf "%d tests passed, %d more alone, %d failed", passed, second, failed - second}' "$log")
  if [ "$status" != 0 ] || [ "$reports" != 0 ]; then verdict=FAILED failed=1; fi
  echo "$verdict: $name: $counts, $reports findings ($seconds s)"
}

# run LOG COMMAND... -- FILTER...: runs tests. Repeats failed tests once, alone, because an
# instrumented program needs several times the CPU and may have timed out. Findings of both attempts
# count.
run() {
  local log=$1 command=() names=()
  shift
  while [ "$1" != -- ]; do command+=("$1"); shift; done
  shift
  "${command[@]}" "$@" >"$log" 2>&1 && return
  mapfile -t names < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
  [ ${#names[@]} -gt 0 ] || return 1
  "${command[@]}" --test-threads 1 --exact "${names[@]}" 2>&1 | sed 's/^test result:/second try:/' >>"$log"
}

# part NAME COMMAND... -- FILTER...: runs tests. Prints the result line, the failed tests, and a
# summary of the reports.
part() {
  local name=$1 log=$work/$1.log reports=$work/$1.reports started=$SECONDS status=0
  local options=log_path=$reports/report:halt_on_error=1
  shift
  rm -rf "$reports" "$log"
  # Servers of other users also write to this directory.
  mkdir -m 1777 "$reports"
  export ASAN_OPTIONS=$options:detect_leaks=1
  export LSAN_OPTIONS=suppressions=$here/leak.supp:print_suppressions=0
  # Threads of the helper pool live as long as the process.
  export TSAN_OPTIONS=$options:report_thread_leaks=0:second_deadlock_stack=1:suppressions=$here/thread.supp
  run "$log" "$@" || status=1
  result "$sanitizer, $name" "$started" "$log" "$(find "$reports" -type f | wc -l)" $status
  grep -aE '^test .*FAILED$' "$log" | sort | uniq -c | sort -rn || true
  grep -rhaE '^SUMMARY' "$reports" | sort | uniq -c || true
}

# executable KIND: prints the path of the program of this kind from cargo's messages.
executable() { jq -r --arg kind "$1" 'select(.executable and (.target.kind | index($kind))) | .executable' | tail -n 1; }

# run_sanitizer SANITIZER [CARGO FLAG...]: builds with the sanitizer. Runs the library's tests,
# which use no driver, and the scenarios on each driver.
run_sanitizer() {
  local sanitizer=$1 work=$target/$1/sanitize driver skip skips=() scenarios=() started=$SECONDS messages library scenes
  shift
  mkdir -p "$work"
  while read -r skip; do skips+=(--skip "$skip"); done < <(lines "$here/skipped")
  case ${SCENARIOS:-} in
    all) ;;
    '') mapfile -t scenarios < <(lines "$here/scenarios") ;;
    *) read -ra scenarios <<<"$SCENARIOS" ;;
  esac
  messages=$work/messages
  # Cargo builds the server because the built benchmark may run it.
  CARGO_TARGET_DIR=$target/$sanitizer RUSTFLAGS="-Zsanitizer=$sanitizer --cfg sanitizer" cargo +nightly test --quiet --locked \
    --target $triple "$@" --lib --bench parse --no-run --message-format json >"$messages" 2>"$work/build.log" &&
    cargo test --quiet --locked --test it --no-run --message-format json >"$messages.it" 2>>"$work/build.log" ||
    { tail -n 30 "$work/build.log"; echo "FAILED: $sanitizer: the build failed"; failed=1; return; }
  echo "built: $sanitizer ($((SECONDS - started)) s)"
  library=$(executable lib <"$messages") scenes=$(executable test <"$messages.it")
  part library "$library" -- "${skips[@]}"
  export TEST_BINARY=$target/$sanitizer/$triple/debug/oci-pull-through
  for driver in "${drivers[@]}"; do
    TEST_IO_DRIVER=$driver part "$driver" "$scenes" -- "${scenarios[@]}" "${skips[@]}"
  done
}

# run_miri: runs the library tests that Miri supports, once.
run_miri() {
  local work=$target/miri/sanitize log status=0 started=$SECONDS chosen=() skips=() skip
  log=$work/log
  mkdir -p "$work"
  mapfile -t chosen < <(lines "$here/miri")
  while read -r skip; do skips+=(--skip "$skip"); done < <(lines "$here/skipped.miri")
  # Tests read files (seeds, proptest settings) and the clock. Random tests take few rounds, each a
  # thousand times slower.
  CARGO_TARGET_DIR=$target/miri MIRIFLAGS=-Zmiri-disable-isolation FUZZ_RUNS=${FUZZ_RUNS:-20} PROPTEST_CASES=${PROPTEST_CASES:-4} \
    cargo +nightly miri test --locked --lib -- "${chosen[@]}" "${skips[@]}" >"$log" 2>&1 || status=1
  result miri "$started" "$log" "$(grep -c '^error: Undefined Behavior' "$log" || true)" $status
  [ $status = 0 ] || grep -aE -A 12 '^error|^test .*FAILED$|panicked at' "$log" | head -n 60
}

[ $# -gt 0 ] || set -- miri address thread
for tool; do
  case $tool in
    miri) (run_miri; exit $failed) || failed=1 ;;
    address) (run_sanitizer address; exit $failed) || failed=1 ;;
    # A separately built standard library, because the synchronization inside the shipped one is
    # invisible to the sanitizer.
    thread) (run_sanitizer thread -Zbuild-std; exit $failed) || failed=1 ;;
    *) echo "usage: scripts/sanitize.sh [miri|address|thread ...]" >&2; exit 2 ;;
  esac
done
exit $failed

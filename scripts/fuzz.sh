#!/usr/bin/env bash
# Coverage-guided fuzzing of everything that reads bytes of strangers, with the address sanitizer.
#
#   scripts/fuzz.sh [TARGET...]     all targets of fuzz/fuzz_targets without names
#
# FUZZ_SECONDS  how long each target runs (60).
#
# Builds what `cargo fuzz` builds, with whatever compiler there is: RUSTC_BOOTSTRAP lets a stable one take the sanitizer's flag.
# The search starts with fuzz/seeds and goes on with what earlier runs have found (fuzz/corpus). An input that fails is left in
# fuzz/artifacts; it belongs into fuzz/seeds with its mend, where the tests of the crate replay it.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
triple=$(rustc -vV | sed -n 's/^host: //p')
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# The versions of the product.
cp Cargo.lock fuzz/Cargo.lock
flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing
  -Cdebug-assertions -Ccodegen-units=16 -Zsanitizer=address)
(
  cd fuzz
  RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" cargo build --quiet --target "$triple" --bins
)

failed=0
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  log=fuzz/artifacts/$target.log
  if "fuzz/target/$triple/debug/$target" -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$target/" "fuzz/corpus/$target" "fuzz/seeds/$target" >"$log" 2>&1; then
    echo "ok    $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $seconds s"
  else
    failed=$((failed + 1))
    echo "FAIL  $target: $log"
    grep -m 3 -E 'panicked|ERROR|Test unit' "$log" || true
  fi
done
echo "$((${#targets[@]} - failed)) targets passed, $failed failed"
exit $((failed > 0))

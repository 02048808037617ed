#!/usr/bin/env bash
# The engine of the shared store against real S3 engines on loopback: moto for what AWS answers, Garage for signatures,
# streaming and a disk.
#
#   scripts/s3.sh                both, or what is installed; CHECK_STRICT=1: skipping fails
#   source scripts/s3.sh         start_moto, start_garage and stop_engines for other scripts; sets AWS_* and S3_BUCKET
#
# GARAGE        the garage program (cargo install garage --version 2.5.0), else from the PATH
# MOTO_SERVER   the moto_server program (pip install 'moto[server]'), else from the PATH
set -euo pipefail

s3_pids=()
s3_scratch=$(mktemp -d "${TMPDIR:-/tmp}/s3.XXXXXX")
s3_passed=0

stop_engines() {
  local pid
  for pid in "${s3_pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${s3_pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  s3_pids=()
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for_url URL: until somebody answers there, whatever they say.
wait_for_url() {
  local left=300
  while [ $((left -= 1)) -gt 0 ]; do
    curl --silent --output /dev/null --max-time 2 "$1" && return 0
    sleep 0.1
  done
  echo "nobody answers at $1" >&2
  return 1
}

moto_command() { command -v "${MOTO_SERVER:-moto_server}"; }
garage_command() { command -v "${GARAGE:-garage}"; }

# start_moto: an engine with the words of AWS; state in memory, signatures not checked.
start_moto() {
  local port
  port=$(free_port)
  "$(moto_command)" -H 127.0.0.1 -p "$port" >"$s3_scratch/moto.log" 2>&1 &
  s3_pids+=($!)
  export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=example S3_BUCKET=oci-cache
  wait_for_url "$AWS_ENDPOINT_URL/"
}

# start_garage: one node with a key that may make buckets, and the bucket `cache`.
start_garage() {
  local s3 rpc admin home=$s3_scratch/garage.$RANDOM
  s3=$(free_port) rpc=$(free_port) admin=$(free_port)
  mkdir -p "$home"
  cat >"$home/garage.toml" <<TOML
metadata_dir = "$home/meta"
data_dir = "$home/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc"
rpc_public_addr = "127.0.0.1:$rpc"
rpc_secret = "$(printf '0%.0s' $(seq 64))"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$s3"
[admin]
api_bind_addr = "127.0.0.1:$admin"
TOML
  export AWS_ACCESS_KEY_ID=GK000000000000000000000001
  AWS_SECRET_ACCESS_KEY=$(printf '0%.0s' $(seq 64))
  export AWS_SECRET_ACCESS_KEY AWS_REGION=garage AWS_ENDPOINT_URL=http://127.0.0.1:$s3 S3_BUCKET=cache
  GARAGE_DEFAULT_ACCESS_KEY=$AWS_ACCESS_KEY_ID GARAGE_DEFAULT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY \
    GARAGE_DEFAULT_BUCKET=$S3_BUCKET RUST_LOG=garage=warn \
    "$(garage_command)" -c "$home/garage.toml" server --single-node --default-bucket >"$s3_scratch/garage.log" 2>&1 &
  s3_pids+=($!)
  wait_for_url "http://127.0.0.1:$admin/health"
  wait_for_url "$AWS_ENDPOINT_URL/"
}

# Sourced: that was all.
if [ "${BASH_SOURCE[0]}" != "$0" ]; then return 0; fi

cd "$(dirname "$0")/.."
trap 'stop_engines; rm -rf "$s3_scratch"' EXIT
trap 'exit 130' INT TERM

# engine_test NAME WHAT [VAR=VALUE...]: one of the tests that need an engine.
engine_test() {
  local name=$1 what=$2
  shift 2
  if ! env RUST_BACKTRACE=0 "$@" cargo test --quiet --locked --lib "store::s3::tests::real::$name" -- --exact --ignored --nocapture \
    >"$s3_scratch/test.log" 2>&1 || ! grep -q '1 passed' "$s3_scratch/test.log"; then
    echo "FAILED  $what"
    cat "$s3_scratch/test.log"
    exit 1
  fi
  echo "ok      $what"
  s3_passed=$((s3_passed + 1))
}

# holds WHAT COMMAND...
holds() {
  local what=$1
  shift
  if ! "$@"; then
    echo "FAILED  $what"
    exit 1
  fi
  echo "ok      $what"
  s3_passed=$((s3_passed + 1))
}

skip() {
  if [ "${CHECK_STRICT:-0}" = 1 ]; then
    echo "FAILED  $* (nothing may be skipped)"
    exit 1
  fi
  echo "SKIP    $*"
}

refused=an_engine_that_refuses_says_so_at_start
opened=an_engine_is_opened

lifecycle() { curl --silent --fail "$AWS_ENDPOINT_URL/$S3_BUCKET?lifecycle"; }

keeps_rules_of_others() {
  curl --silent --fail --output /dev/null -X PUT "$AWS_ENDPOINT_URL/$S3_BUCKET?lifecycle" \
    --header 'Content-Type: application/xml' --data '<LifecycleConfiguration><Rule><ID>backups</ID><Filter><Prefix>backups/</Prefix></Filter><Status>Enabled</Status><Expiration><Days>7</Days></Expiration></Rule></LifecycleConfiguration>'
  engine_test $opened "moto: a rule is added to those of others" S3_LIFECYCLE_DAYS=9
  lifecycle | grep -q backups && lifecycle | grep -q oci-cache-expiry:blobs && lifecycle | grep -q '<Days>9</Days>'
}

removes_only_ours() {
  engine_test $opened "moto: our rules are removed with 0 days" S3_LIFECYCLE_DAYS=0
  lifecycle | grep -q backups && ! lifecycle | grep -q oci-cache-expiry
}

presigned_is_enough() {
  local url
  url=$(grep -o 'http://[^ ]*' "$s3_scratch/test.log" | head -n 1)
  [ "$(curl --silent --fail "$url" | wc -c)" = 100 ] && ! curl --silent --fail --output /dev/null "${url%%\?*}"
}

common() {
  engine_test an_engine_keeps_what_is_stored_whole_in_parts_and_under_every_digest "$1: whole, in parts, sha512, ranges, a second machine"
  engine_test an_engine_keeps_tags_with_every_character_they_may_have "$1: tags"
}

if moto_command >/dev/null; then
  start_moto
  engine_test $opened "moto: a missing bucket is made, in the region without a name"
  engine_test $opened "moto: a missing bucket is made, in a region with one" AWS_REGION=eu-central-1 S3_BUCKET=elsewhere
  holds "moto: rules of others stay" keeps_rules_of_others
  holds "moto: rules of others stay when ours go" removes_only_ours
  common moto
  stop_engines
else
  skip "moto is not installed (pip install 'moto[server]')"
fi

if garage_command >/dev/null; then
  start_garage
  engine_test $opened "garage: the bucket is used"
  holds "garage: a presigned URL is enough to read, and without its signature it is not" presigned_is_enough
  engine_test $opened "garage: below a prefix" S3_PREFIX=caches/eu
  common garage
  engine_test $refused "garage: an unknown key is refused" AWS_ACCESS_KEY_ID=GK0000000000000000000000ff S3_TEST_REFUSAL=credentials
  engine_test $refused "garage: a wrong secret is refused" AWS_SECRET_ACCESS_KEY=wrong S3_TEST_REFUSAL=credentials
  engine_test $refused "garage: another region is refused" AWS_REGION=elsewhere S3_TEST_REFUSAL=AWS_REGION
  engine_test $refused "garage: a bucket that may not be made" S3_BUCKET=missing S3_TEST_REFUSAL="aws s3 mb"
  stop_engines
else
  skip "garage is not installed (cargo install garage --version 2.5.0)"
fi
echo "$s3_passed checks of S3 engines passed"

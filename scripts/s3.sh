#!/usr/bin/env bash
# Tests the shared store with real S3 engines on loopback: first the library's S3 client alone, then complete caches. moto
# imitates the answers of AWS. Garage tests signatures, streaming, a disk, and three nodes, one of which is killed.
#
#   scripts/s3.sh [BINARY]           moto, and Garage if installed
#   scripts/s3.sh garage [BINARY]    both; builds Garage if missing, which takes minutes
#   source scripts/s3.sh             start_moto, start_garage, start_garages and stop_engines for other scripts
#
# BINARY         the cache, target/release/oci-pull-through by default; without a binary, only the S3 client is tested
# CHECK_STRICT=1 skipping moto or the caches fails
# GARAGE         the garage program (cargo install garage --version 2.5.0); otherwise from PATH or below the target directory
# LIBRARY_TESTS  the test program of the library; otherwise built with cargo
# MOTO_SERVER    the moto_server program; otherwise installed by pip below the target directory
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
s3_tools=${CARGO_TARGET_DIR:-$here/../target}/s3-tools
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

# wait_for_url URL: waits until a server answers with any response.
wait_for_url() {
  local left=300
  while [ $((left -= 1)) -gt 0 ]; do
    curl --silent --output /dev/null --max-time 2 "$1" && return 0
    sleep 0.1
  done
  echo "no server responds at $1" >&2
  return 1
}

moto_command() { command -v "${MOTO_SERVER:-$s3_tools/venv/bin/moto_server}"; }
garage_command() { command -v "${GARAGE:-garage}" || command -v "$s3_tools/bin/garage"; }

# The version matters: 5.2.1 completes a multipart upload with a response that is not valid S3.
install_moto() {
  mkdir -p "$s3_tools"
  python3 -m venv "$s3_tools/venv" && "$s3_tools/venv/bin/pip" install --quiet --disable-pip-version-check 'moto[server]==5.1.22'
}

# Builds only the required features, and optimizes only the hashing crates, which halves the build
# time.
install_garage() {
  local fast=() crate
  for crate in blake2 sha2 md-5 digest block-buffer generic-array zstd-sys; do
    fast+=(--config "profile.dev.package.$crate.opt-level=3")
  done
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 cargo install "${fast[@]}" --quiet --locked --debug --root "$s3_tools" \
    --target-dir "$s3_tools/build" --version 2.5.0 --no-default-features --features bundled-libs,sqlite garage
  rm -rf "$s3_tools/build"
}

# start_moto: starts an engine with the responses of AWS, state in memory, and no signature checks.
start_moto() {
  local port
  port=$(free_port)
  "$(moto_command)" -H 127.0.0.1 -p "$port" >"$s3_scratch/moto.log" 2>&1 &
  s3_pids+=($!)
  export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=example S3_BUCKET=oci-cache
  wait_for_url "$AWS_ENDPOINT_URL/"
}

# garage_config HOME COPIES ADDRESS S3 RPC ADMIN
garage_config() {
  local home=$1 s3=$4 rpc=$5 admin=$6
  mkdir -p "$home"
  cat >"$home/garage.toml" <<TOML
metadata_dir = "$home/meta"
data_dir = "$home/data"
db_engine = "sqlite"
replication_factor = $2
rpc_bind_addr = "$3:$rpc"
rpc_public_addr = "$3:$rpc"
rpc_secret = "$(printf '0%.0s' $(seq 64))"
[s3_api]
s3_region = "garage"
api_bind_addr = "$3:$s3"
[admin]
api_bind_addr = "$3:$admin"
TOML
}

# start_garage: starts a node with a key that may create buckets, and the bucket `cache`. Sets
# `garage_home`, the directory of its files.
start_garage() {
  local s3 rpc admin home=$s3_scratch/garage.$RANDOM
  garage_home=$home
  s3=$(free_port) rpc=$(free_port) admin=$(free_port)
  garage_config "$home" 1 127.0.0.1 "$s3" "$rpc" "$admin"
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

# start_garages: starts three nodes on separate loopback addresses, each with a full copy. Clients
# use the first node. Sets `garage_third`, the process of the third node.
start_garages() {
  local s3 rpc admin node home=$s3_scratch/garages.$RANDOM ids=() cli
  s3=$(free_port) rpc=$(free_port) admin=$(free_port)
  for node in 1 2 3; do
    garage_config "$home/$node" 3 127.0.0.1$node "$s3" "$rpc" "$admin"
    RUST_LOG=garage=warn "$(garage_command)" -c "$home/$node/garage.toml" server >"$s3_scratch/garage.$node.log" 2>&1 &
    s3_pids+=($!)
    garage_third=$!
  done
  for node in 1 2 3; do
    wait_for_url "http://127.0.0.1$node:$admin/health"
    ids+=("$("$(garage_command)" -c "$home/$node/garage.toml" node id -q)")
  done
  cli=("$(garage_command)" -c "$home/1/garage.toml")
  {
    "${cli[@]}" node connect "${ids[1]}"
    "${cli[@]}" node connect "${ids[2]}"
    for node in 0 1 2; do "${cli[@]}" layout assign -z "zone$node" -c 10G "${ids[$node]%%@*}"; done
    "${cli[@]}" layout apply --version 1
    export AWS_ACCESS_KEY_ID=GK000000000000000000000001
    AWS_SECRET_ACCESS_KEY=$(printf '0%.0s' $(seq 64))
    export AWS_SECRET_ACCESS_KEY AWS_REGION=garage AWS_ENDPOINT_URL=http://127.0.0.11:$s3 S3_BUCKET=cache
    "${cli[@]}" key import --yes -n cache "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"
    "${cli[@]}" bucket create "$S3_BUCKET"
    "${cli[@]}" bucket allow --read --write --owner "$S3_BUCKET" --key "$AWS_ACCESS_KEY_ID"
  } >"$s3_scratch/garage.setup.log" 2>&1 || { cat "$s3_scratch/garage.setup.log"; return 1; }
  wait_for_url "$AWS_ENDPOINT_URL/"
}

# A sourcing script only needs the functions above.
if [ "${BASH_SOURCE[0]}" != "$0" ]; then return 0; fi

cd "$here/.."
wanted=
if [ "${1:-}" = garage ]; then
  wanted=garage
  shift
fi
binary=${1:-${CARGO_TARGET_DIR:-target}/release/oci-pull-through}
trap 'stop_caches; stop_engines; rm -rf "$s3_scratch"' EXIT
trap 'exit 130' INT TERM

library_tests=(cargo test --quiet --locked --lib --)
[ -z "${LIBRARY_TESTS:-}" ] || library_tests=("$LIBRARY_TESTS")

# engine_test NAME DESCRIPTION [VAR=VALUE...]: runs a library test that needs an engine.
engine_test() {
  local name=$1 what=$2
  shift 2
  if ! env RUST_BACKTRACE=0 "$@" "${library_tests[@]}" "store::s3::tests::real::$name" --exact --ignored --nocapture \
    >"$s3_scratch/test.log" 2>&1 || ! grep -q '1 passed' "$s3_scratch/test.log"; then
    echo "FAILED  $what"
    cat "$s3_scratch/test.log"
    exit 1
  fi
  echo "ok      $what"
  s3_passed=$((s3_passed + 1))
}

# holds DESCRIPTION COMMAND...
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

# ---- Caches ---------------------------------------------------------------------------------------------------------

cache_pids=()

stop_caches() {
  local pid
  for pid in "${cache_pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${cache_pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  cache_pids=()
}

start_upstream() {
  upstream=$s3_scratch/upstream.$RANDOM
  mkdir "$upstream"
  python3 "$here/s3/upstream.py" "$upstream" &
  upstream_pid=$!
  cache_pids+=($!)
  while [ ! -e "$upstream/port" ]; do kill -0 $upstream_pid; sleep 0.1; done
  registry=127.0.0.1:$(cat "$upstream/port")
  mapfile -t digests <"$upstream/digests"
}

# run_cache [VAR=VALUE...]: starts a new node. Sets `cache` (the address) and `cache_log`.
run_cache() {
  local home=$s3_scratch/cache.$RANDOM$RANDOM left=300
  mkdir "$home"
  printf 'registries:\n  - {name: "%s", url: "http://%s"}\n' "$registry" "$registry" >"$home/config.yaml"
  cache_log=$home/log
  env LISTEN_ADDR=127.0.0.1:0 FS_ROOT="$home/store" SPOOL_DIR="$home/spool" CONFIG_FILE="$home/config.yaml" CORES=1 \
    ACCESS_LOG=off S3_LIFECYCLE_DAYS=0 "$@" "$binary" 2>"$cache_log" &
  cache_pids+=($!)
  while ! grep -q 'msg=listening ' "$cache_log"; do
    left=$((left - 1))
    if ! kill -0 "${cache_pids[-1]}" 2>/dev/null || [ $left = 0 ]; then return 1; fi
    sleep 0.1
  done
  cache=$(sed -n 's#.*msg=listening .*address=http://\([^ ]*\).*#\1#p' "$cache_log" | head -n 1)
}

# path_of DIGEST
path_of() {
  local kind=blobs
  if [ "$1" = "${digests[-1]}" ]; then kind=manifests; fi
  echo "http://$cache/v2/$registry/team/app/$kind/$1"
}

# pull_one DIGEST [CURL ARGUMENT...]: passes if the content is complete and correct.
pull_one() {
  local digest=$1
  shift
  [ "sha256:$(curl --silent --fail --max-time 120 "$@" "$(path_of "$digest")" | sha256sum | cut -d ' ' -f 1)" = "$digest" ]
}

pull_all() {
  local digest
  for digest in "${digests[@]}"; do pull_one "$digest" || return 1; done
  curl --silent --fail --output /dev/null "http://$cache/v2/$registry/team/app/manifests/v1"
}

asked() { wc -l <"$upstream/requests"; }

# comes_from_the_bucket BACKEND: after all objects are in the bucket, a new node with an empty store
# pulls the image without upstream requests. A slow machine may need several attempts.
comes_from_the_bucket() {
  local digest before left=300 key keys=()
  for digest in "${digests[@]}"; do
    key=blobs
    if [ "$digest" = "${digests[-1]}" ]; then key=manifests/$registry/team/app; fi
    keys+=("$1/$key/${digest/:/-}.meta.json")
  done
  for key in "${keys[@]}" "$1/manifests/$registry/team/app/_tags/v1"; do
    until python3 "$here/s3/has_object.py" "$key" 2>"$s3_scratch/has_object.log"; do
      left=$((left - 1))
      if [ $left = 0 ]; then cat "$s3_scratch/has_object.log" "$cache_log"; return 1; fi
      sleep 0.2
    done
  done
  for _ in 1 2 3 4 5; do
    run_cache STORAGE_BACKEND="$1" S3_PREFIX="$1" || return 1
    before=$(asked)
    pull_all || return 1
    if [ "$(asked)" = "$before" ]; then return 0; fi
    sleep 2
  done
  cat "$cache_log"
  return 1
}

ranges_are_right() {
  local digest=${digests[3]} file range from
  file=$upstream/$digest
  for range in 0-0 1000-1999 70000000-70000999 73400310-; do
    from=${range%-*}
    cmp <(curl --silent --fail --range "$range" "$(path_of "$digest")") \
      <(tail -c +$((from + 1)) "$file" | if [ "${range#*-}" ]; then head -c $((${range#*-} - from + 1)); else cat; fi) || return 1
  done
}

is_sent_to_the_bucket() {
  local digest=${digests[3]} told
  told=$(curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}' "$(path_of "$digest")")
  case $told in
    "307 $AWS_ENDPOINT_URL/"*X-Amz-Signature=*) ;;
    *) echo "response ${told%%\?*}; expected a redirect to the bucket"; return 1 ;;
  esac
  pull_one "$digest" --location || return 1
  [ "$(curl --silent --location --range 5-14 "$(path_of "$digest")" | wc -c)" = 10 ] || return 1
  [ "$(curl --silent --head --output /dev/null --write-out '%{http_code}' "$(path_of "$digest")")" = 200 ] || return 1
  ! grep -q X-Amz-Signature "$cache_log"
}

fails_to_start() {
  local what=$1
  shift
  if run_cache "$@"; then return 1; fi
  grep -q "$what" "$cache_log"
}

# caches ENGINE: a fill, hits from another node, ranges, redirects.
caches() {
  local backend
  start_upstream
  for backend in s3 tiered; do
    holds "$1, $backend: a cold pull" pulls_cold "$backend"
    holds "$1, $backend: another node pulls without the registry" comes_from_the_bucket "$backend"
    holds "$1, $backend: ranges" ranges_are_right
  done
  run_cache STORAGE_BACKEND=s3 S3_PREFIX=s3 S3_REDIRECT=true
  holds "$1: clients are redirected to the bucket" is_sent_to_the_bucket
  stop_caches
}

pulls_cold() { run_cache STORAGE_BACKEND="$1" S3_PREFIX="$1" && pull_all; }

# survives_a_node_failure: kills an engine node during pulls. All pulls must succeed, also after the kill.
survives_a_node_failure() {
  local digest=${digests[3]} pullers=() pid status=0
  run_cache STORAGE_BACKEND=s3 S3_PREFIX=s3
  for _ in 1 2 3 4; do
    pull_one "$digest" --limit-rate 40M &
    pullers+=($!)
  done
  sleep 1
  kill -KILL "$garage_third"
  for pid in "${pullers[@]}"; do wait "$pid" || status=1; done
  [ $status = 0 ] && pull_all
}

skip() {
  if [ "${CHECK_STRICT:-0}" = 1 ]; then
    echo "FAILED  $* (CHECK_STRICT=1 permits no skipped check)"
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
  engine_test $opened "moto: a rule is added to existing rules" S3_LIFECYCLE_DAYS=9
  lifecycle | grep -q backups && lifecycle | grep -q oci-cache-expiry:blobs && lifecycle | grep -q '<Days>9</Days>'
}

removes_only_ours() {
  engine_test $opened "moto: the rules of the cache are removed with 0 days" S3_LIFECYCLE_DAYS=0
  lifecycle | grep -q backups && ! lifecycle | grep -q oci-cache-expiry
}

presigned_is_enough() {
  local url
  url=$(grep -o 'http://[^ ]*' "$s3_scratch/test.log" | head -n 1)
  [ "$(curl --silent --fail "$url" | wc -c)" = 100 ] && ! curl --silent --fail --output /dev/null "${url%%\?*}"
}

common() {
  engine_test an_engine_keeps_what_is_stored_whole_in_parts_and_under_every_digest "$1: whole objects, parts, sha512, ranges, a second machine"
  engine_test an_engine_keeps_tags_with_every_character_they_may_have "$1: tags"
  engine_test an_engine_lists_more_objects_than_a_page_and_removes_one "$1: two pages of a listing, a copy of the metadata, a removal"
}

moto_command >/dev/null || install_moto >"$s3_scratch/moto.log" 2>&1 || tail -n 5 "$s3_scratch/moto.log"
[ -x "$binary" ] || skip "caches: $binary is not an executable"
if moto_command >/dev/null; then
  start_moto
  engine_test $opened "moto: a missing bucket is created in the default region"
  engine_test $opened "moto: a missing bucket is created in another region" AWS_REGION=eu-central-1 S3_BUCKET=elsewhere
  holds "moto: existing rules are kept" keeps_rules_of_others
  holds "moto: existing rules are kept when the rules of the cache are removed" removes_only_ours
  common moto
  if [ -x "$binary" ]; then caches moto; fi
  stop_engines
else
  skip "moto is not installed (pip install 'moto[server]')"
fi

if [ "$wanted" ] && ! garage_command >/dev/null; then install_garage; fi
if garage_command >/dev/null; then
  start_garage
  engine_test $opened "garage: the bucket is used"
  holds "garage: a presigned URL permits a read only with its signature" presigned_is_enough
  engine_test $opened "garage: below a prefix" S3_PREFIX=caches/eu
  common garage
  engine_test $refused "garage: an unknown key is rejected" AWS_ACCESS_KEY_ID=GK0000000000000000000000ff S3_TEST_REFUSAL=credentials
  engine_test $refused "garage: a wrong secret is rejected" AWS_SECRET_ACCESS_KEY=wrong S3_TEST_REFUSAL=credentials
  engine_test $refused "garage: another region is rejected" AWS_REGION=elsewhere S3_TEST_REFUSAL=AWS_REGION
  engine_test $opened "garage: a missing bucket is created" S3_BUCKET=missing
  "$(garage_command)" -c "$garage_home/garage.toml" key deny --create-bucket "$AWS_ACCESS_KEY_ID" >"$s3_scratch/garage.setup.log" 2>&1
  engine_test $refused "garage: a bucket without the permission to create" S3_BUCKET=another S3_TEST_REFUSAL="aws s3 mb"
  if [ -x "$binary" ]; then
    caches garage
    start_upstream
    holds "garage: the cache does not start with rejected credentials" fails_to_start credentials STORAGE_BACKEND=s3 AWS_SECRET_ACCESS_KEY=wrong
    stop_caches
    stop_engines
    start_garages
    start_upstream
    holds "three garages: a cold pull" pulls_cold s3
    holds "three garages: another node pulls without the registry" comes_from_the_bucket s3
    holds "three garages: a node is killed during pulls" survives_a_node_failure
    holds "two of three garages: a new image is stored" pulls_cold tiered
    holds "two of three garages: another node pulls the image" comes_from_the_bucket tiered
    stop_caches
  fi
  stop_engines
else
  # A build takes longer than all tests, so only `garage` as argument builds it.
  echo "SKIP    garage is not installed (scripts/s3.sh garage builds it)"
fi
echo "$s3_passed checks of S3 engines passed"

#!/usr/bin/env bash
# The way of images into an air gap, with the commands of docs/how-to/air-gap.md: a list of a cluster, load, export,
# import on a machine without a network, pulls, the report of missing images, and a second bundle with these.
#
#   scripts/air-gap.sh [BINARY] [quick]
#
#   quick   layers of 1 MiB instead of 32 MiB, and no podman
#
# BINARY         target/release/oci-pull-through by default.
# CHECK_STRICT=1 a skipped check fails.
# KEEP=1         keeps the working directory and prints its name.
#
# A fence ```sh air-gap STEP of the page has the commands of a step. The script runs each fence unchanged. Its
# variables CACHE, IMAGE and FS_ROOT are those of the page. A docker-registry on loopback is the registry. The isolated
# cache and its clients are in a network namespace that has only a loopback interface.
#
# shellcheck disable=SC2034 # common.sh uses the variables.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ $# -le 2 ] || usage
binary=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$here/../target}/release/oci-pull-through}")
layer_mb=32 quick=0
case ${2:-} in '') ;; quick) layer_mb=1 quick=1 ;; *) usage ;; esac
[ -x "$binary" ] || { echo "scripts/air-gap.sh: $binary is not an executable; expected the cache" >&2; exit 2; }
page=$here/../docs/how-to/air-gap.md
strict=${CHECK_STRICT:-0} direct=0
PATH=$PATH:/usr/sbin:/sbin

# The name does not resolve, so a client that bypasses the cache fails.
registry=registry.test
work=$(mktemp -d "${TMPDIR:-/tmp}/air-gap.XXXXXX")
# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry skopeo jq curl ip unshare nsenter

# ---- The commands of the page -----------------------------------------------------------------------------------------

# fenced STEP: prints the commands of the fence of STEP.
fenced() { awk -v fence="\`\`\`sh air-gap $1" '/^```/ {inside = ($0 == fence); next} inside' "$page"; }

steps_of_the_page() { sed -n 's/^```sh air-gap //p' "$page"; }

# on SIDE STEP: runs the fence of STEP in the directory of SIDE, connected or isolated. Words before `sh` enter the
# network namespace.
on() {
  local side=$1 enter=()
  [ "$side" = connected ] || enter=("${entering[@]}")
  fenced "$2" >"$work/$2.sh"
  [ -s "$work/$2.sh" ] || { echo "docs/how-to/air-gap.md has no fence \`\`\`sh air-gap $2"; return 1; }
  echo "$2" >>"$work/steps"
  (cd "$work/$side" && FS_ROOT=$work/$side/store CONFIG_FILE=$work/$side/cache.yml CACHE=${cache:-} IMAGE=$image \
    PATH=$work/bin:$PATH "${enter[@]}" sh -eu "$work/$2.sh")
}

# ---- The two sides -----------------------------------------------------------------------------------------------------

image=$registry/$repository:1
artifact=$registry/$artifact_repository:1
outside=$registry/team/outside:1
mkdir -p "$work/bin" "$work/connected" "$work/isolated"
ln -s "$binary" "$work/bin/oci-pull-through"

# A cluster with pods of both images. A kubectl without a server prints the list.
write_cluster() {
  jq -n --arg app "$image" --arg artifact "$artifact" --arg digest "$registry/$repository@$(root_of app)" '
    def pod(name; spec): {apiVersion: "v1", kind: "Pod", metadata: {name: name, namespace: "default"}, spec: spec};
    {apiVersion: "v1", kind: "List", items: [
      pod("app"; {containers: [{name: "app", image: $app}], initContainers: [{name: "init", image: $digest}]}),
      pod("again"; {containers: [{name: "app", image: $app}]}),
      pod("volume"; {containers: [{name: "app", image: $app}],
        volumes: [{name: "thing", image: {reference: $artifact}}]})]}' >"$work/cluster.json"
  printf '#!/bin/sh\n[ "$*" = "get pods -A -o json" ] || exit 2\ncat %s/cluster.json\n' "$work" >"$work/bin/kubectl"
  chmod +x "$work/bin/kubectl"
}

# push_manifest FILE TYPE REFERENCE
push_manifest() {
  curl -sS --fail-with-body -X PUT -H "Content-Type: $2" --data-binary "@$1" "http://$upstream/v2/$repository/manifests/$3"
}

# A signature of the index, found by the tag of the referrers tag schema. Sets `referrer`.
push_referrer() {
  local build=$images/build manifest=application/vnd.oci.image.manifest.v1+json type=application/vnd.example.signature
  local config location
  printf '{}' >"$build/config"
  config=sha256:$(sha256sum "$build/config" | cut -d' ' -f1)
  location=$(curl -sS --fail-with-body -X POST -D - -o /dev/null "http://$upstream/v2/$repository/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  curl -sS --fail-with-body -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$build/config" "$location&digest=$config"
  jq -cn --arg type "$type" --arg manifest "$manifest" --arg config "$config" \
    --argjson subject "$(jq -c '.manifests[0] | {mediaType, digest, size}' "$images/app/index.json")" '
    {mediaType: "application/vnd.oci.empty.v1+json", digest: $config, size: 2} as $empty |
    {schemaVersion: 2, mediaType: $manifest, artifactType: $type, config: $empty, layers: [$empty], subject: $subject}' \
    >"$build/manifest"
  referrer=sha256:$(sha256sum "$build/manifest" | cut -d' ' -f1)
  push_manifest "$build/manifest" $manifest "$referrer"
  jq -cn --arg type "$type" --arg manifest "$manifest" --arg digest "$referrer" \
    --argjson size "$(stat -c %s "$build/manifest")" '
    {schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
      manifests: [{mediaType: $manifest, digest: $digest, size: $size, artifactType: $type}]}' >"$build/index"
  push_manifest "$build/index" application/vnd.oci.image.index.v1+json "$(root_of app | tr : -)"
}

# Creates the network namespace. Sets `entering`, the words that enter the namespace.
isolate() {
  local flags=(--net) enter=(--net) holder
  if [ "$(id -u)" != 0 ]; then
    flags+=(--user --map-root-user)
    enter+=(--user --preserve-credentials)
  fi
  unshare "${flags[@]}" sh -c 'ip link set lo up && echo up && exec sleep 600' >"$work/namespace" 2>&1 &
  holder=$!
  pids+=("$holder")
  eventually 10 grep -q up "$work/namespace" || { skip "all: no network namespace: $(cat "$work/namespace")"; summary; }
  entering=(nsenter --target "$holder" "${enter[@]}" --)
}

only_loopback() { same interfaces lo "$("${entering[@]}" ip -o link | awk -F': ' '{print $2}')"; }

# The configuration of the page, without any further key.
start_isolated() {
  awk '/^```/ {inside = ($0 == "```yaml"); next} inside' "$page" >"$work/isolated/cache.yml"
  grep -q '^air_gapped: true$' "$work/isolated/cache.yml"
  # The process must have a single listener, whose port `started` reads. The admin socket stays.
  LISTEN_ADDR=127.0.0.1:0 ADMIN_ADDR=off FS_ROOT=$work/isolated/store CONFIG_FILE=$work/isolated/cache.yml \
    "${entering[@]}" "$binary" serve >"$work/isolated.log" 2>&1 &
  pids+=($!)
  started "the isolated cache" $! "$work/isolated.log"
  cache=127.0.0.1:$port
  # The clients of the following steps are in the namespace too.
  skopeo() { "${entering[@]}" skopeo "$@"; }
  podman() { "${entering[@]}" podman "$@"; }
  curl() { "${entering[@]}" curl "$@"; }
}

# ---- Checks ------------------------------------------------------------------------------------------------------------

# fails STATUS COMMAND...
fails() {
  local expected=$1 status=0
  shift
  "$@" || status=$?
  same "exit codes" "$expected" "$status"
}

pulled_index_is_whole() {
  on isolated pull
  same "root manifests" "$(root_of app)" "sha256:$(sha256sum "$work/isolated/pulled/manifest.json" | cut -d' ' -f1)"
  rm -r "$work/isolated/pulled"
}

referrer_is_served() {
  local listed
  listed=$(curl -sS --fail-with-body "http://$cache/v2/$registry/$repository/referrers/$(root_of app)" | jq -r '.manifests[].digest')
  same referrers "$referrer" "$listed"
  same "bytes of the referrer" "$referrer" "sha256:$(curl -sS --fail-with-body -H 'Accept: */*' \
    "http://$cache/v2/$registry/$repository/manifests/$referrer" | sha256sum | cut -d' ' -f1)"
}

# Each request for content so far has the status 200. Clients also request `/v2/`.
all_pulls_have_200() {
  grep -q 'msg=request.* repository=.* status=200 ' "$work/isolated.log"
  ! grep 'msg=request.* repository=' "$work/isolated.log" | grep -v ' status=200 '
}

# reported: prints the references of the report without their comments.
reported() {
  on isolated report
  sed 's/ *#.*//; /^$/d' "$work/isolated/missing.txt"
}

nothing_is_missing() { same "missing images" "" "$(reported)"; }

outside_is_refused_and_reported() {
  refused 'manifest unknown' skopeo copy --quiet "${skopeo_tls[@]}" "docker://$cache/$outside" "dir:$work/outside"
  same "missing images" "$outside" "$(reported)"
}

image_of_the_second_bundle_is_pulled() {
  image=$outside on isolated pull
  nothing_is_missing
}

# A step that the script does not know would never run.
all_steps_have_run() { same "steps of the page" "$(steps_of_the_page | sort -u)" "$(sort -u "$work/steps")"; }

# ---- The way of the images ----------------------------------------------------------------------------------------------

start_upstream
push_referrer
skopeo copy --quiet --dest-tls-verify=false "oci:$images/artifact:1" "docker://$upstream/team/outside:1"
printf 'registries:\n  - name: %s\n    url: http://%s\n' "$registry" "$upstream" >"$work/connected/cache.yml"
write_cluster
check "list of the cluster" on connected list
check "load" on connected load
check "export" on connected export

isolate
check "the isolated side has only a loopback interface" only_loopback
start_isolated
cp "$work/connected/site.tar" "$work/connected/cluster.json" "$work/isolated/"
check "images are not ready before the import" fails 1 on isolated check
check "import" on isolated import
check "images are ready" on isolated check
check "skopeo pulls the index" pulled_index_is_whole
check "skopeo pulls all platforms and the artifact" pull_skopeo
if [ $quick = 0 ] && command -v podman >/dev/null; then check "podman pulls" pull_podman; fi
check "the referrer is served" referrer_is_served
check "all pulls have the status 200" all_pulls_have_200
check "no image is missing" nothing_is_missing
check "an image outside the bundle is refused, then reported" outside_is_refused_and_reported
check "the reported image is not ready" fails 1 on isolated check-missing

cp "$work/isolated/missing.txt" "$work/connected/"
check "load of the report" on connected load-missing
check "export of new content" on connected export-missing
cp "$work/connected/missing.tar" "$work/isolated/"
check "import of new content" on isolated import-missing
check "the reported image is ready" on isolated check-missing
check "skopeo pulls the reported image" image_of_the_second_bundle_is_pulled
check "all steps of the page have run" all_steps_have_run
summary

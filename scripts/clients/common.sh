# shellcheck shell=bash
# Reporting, processes, and clients. Sourced by ../clients.sh and ../drivers.sh, which set the
# variables below.
: "${work:?}" "${registry:?}" "${strict:?}" "${direct:?}" "${client:=}" "${upstream_port:=}" "${binary=}"

images=$work/images
repository=team/app
artifact_repository=team/thing
passed=0 failed=0 skipped=0
pids=()
# More arguments of a pull, such as a login.
skopeo_flags=() podman_flags=() ctr_flags=()
# The cache's address and scheme, and the TLS options of each client.
host=127.0.0.1 scheme=http hosts_tls=''
skopeo_tls=(--src-tls-verify=false) podman_tls=(--tls-verify=false)

# shellcheck source=scripts/clients/images.sh
. "$(dirname "${BASH_SOURCE[0]}")/images.sh"

# ---- Reporting ------------------------------------------------------------------------------------------------------

pass() { passed=$((passed + 1)); echo "PASS  $*"; }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }
skip() {
  if [ "$strict" = 1 ]; then fail "$* (CHECK_STRICT=1 permits no skipped check)"; else skipped=$((skipped + 1)); echo "SKIP  $*"; fi
}

# check NAME COMMAND...: runs COMMAND in a subshell. Passes on success, prints the end of the output
# on failure.
check() {
  local name=$1 started=$SECONDS
  shift
  # Not as a condition, because bash would ignore `set -e` inside.
  set +e
  (set -e; "$@") >"$work/output" 2>&1
  local status=$?
  set -e
  if [ $status = 0 ]; then
    pass "$name ($((SECONDS - started)) s)"
  else
    fail "$name"
    tail -n 15 "$work/output" | sed 's/^/        /'
  fi
}

# summary: prints the counts and exits.
summary() {
  echo "$passed passed, $failed failed, $skipped skipped"
  exit $((failed > 0))
}

# needs TOOL...: ends the script with a skip if a tool is not installed.
needs() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { skip "all: $tool is not installed"; summary; }
  done
}

# Error messages of clients after a rejected login.
# shellcheck disable=SC2034 # For the scripts that source this file.
rejection='401|403|unauthorized|denied|forbidden|no basic auth credentials|invalid username/password'

# refused PATTERN COMMAND...: passes if COMMAND fails and PATTERN occurs in its output or in
# `asked`. COMMAND may write a client's output to `asked`.
refused() {
  local pattern=$1
  shift
  # Only the output of this attempt.
  : >"$work/asked"
  # Not as a condition, because bash would ignore `set -e` inside.
  set +e
  (set -e; "$@") >"$work/refused" 2>&1
  local status=$?
  set -e
  [ $status != 0 ] || { echo "the command succeeded; expected a failure"; return 1; }
  grep -aiE "$pattern" "$work/refused" "$work/asked" || { cat "$work/refused"; return 1; }
}

# nowhere USER PLACE...: passes if the files contain neither `password` nor its encoded form.
nowhere() {
  local found encoded
  # shellcheck disable=SC2154 # Set by the scripts that source this file.
  encoded=$(printf '%s' "$1:$password" | base64)
  shift
  found=$(grep -rlF -e "$password" -e "$encoded" "$@" || true)
  [ -z "$found" ] || { echo "found in:"; echo "$found"; return 1; }
}

# ---- Tools built with go ------------------------------------------------------------------------------------------

tools=${TOOLS:-$HOME/.cache/oci-pull-through-tools}
PATH=$tools:$PATH

# buildable NAME COMMAND...: passes if NAME is installed or COMMAND builds it. Otherwise sets
# `missing` to the reason.
buildable() {
  local name=$1
  shift
  command -v "$name" >/dev/null && return
  if ! command -v go >/dev/null; then
    missing="not installed, and go is not installed"
    return 1
  fi
  mkdir -p "$tools"
  GOBIN=$tools GOFLAGS='-mod=mod -buildvcs=false' "$@" >"$work/build.log" 2>&1 && return
  missing="not installed and cannot be built: $(tail -n 1 "$work/build.log")"
  return 1
}

# tool NAME PACKAGE: installs NAME with go if missing, or skips its checks.
tool() { buildable "$1" go install "$2" || { skip "$1: $missing"; return 1; }; }

# ---- Processes ------------------------------------------------------------------------------------------------------

stop() {
  local pid=$1 waited=0
  kill "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do
    waited=$((waited + 1))
    [ $waited -gt 300 ] && kill -9 "$pid" 2>/dev/null
    sleep 0.1
  done
  wait "$pid" 2>/dev/null || true
}

cleanup() {
  local pid mount
  for pid in "${pids[@]}"; do stop "$pid"; done
  # Mounts that a daemon left behind would make the removal below delete their contents. Innermost
  # first.
  for mount in $(awk -v work="$work/" 'index($2, work) == 1 {print $2}' /proc/mounts | sort -r); do
    umount "$mount" || umount -l "$mount" || true
  done
  if [ "${KEEP:-0}" = 1 ]; then echo "state is in $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# eventually SECONDS COMMAND...: polls external programs, which offer no event to wait for.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

# port_of PID: prints the TCP port that the process listens on. Fails without such a port.
port_of() {
  local inodes
  inodes=$(find "/proc/$1/fd" -type l -printf '%l\n' 2>/dev/null | sed -n 's/^socket:\[\([0-9]*\)\]$/\1/p')
  [ -n "$inodes" ] || return 1
  local hex
  hex=$(awk -v inodes="$inodes" 'BEGIN {n = split(inodes, list, "\n"); for (i = 1; i <= n; i++) ours[list[i]] = 1}
    $4 == "0A" && ($10 in ours) {sub(/.*:/, "", $2); print $2; exit}' "/proc/$1/net/tcp" "/proc/$1/net/tcp6")
  [ -n "$hex" ] && echo $((16#$hex))
}

# started NAME PID LOG: waits until the process listens, and sets `port`.
started() {
  local deadline=$((SECONDS + 30))
  until port=$(port_of "$2"); do
    if [ $SECONDS -ge $deadline ] || ! kill -0 "$2" 2>/dev/null; then
      echo "$1 did not start:"
      tail -n 20 "$3"
      exit 1
    fi
    sleep 0.1
  done
}

# serve_registry NAME [YAML]: starts a docker-registry with the common content and a log in
# NAME.log. The registry is open unless YAML configures authentication. Sets `port` and
# `registry_pid`.
serve_registry() {
  cat >"$work/$1.yml" <<END
version: 0.1
log: {level: info, formatter: text}
storage: {filesystem: {rootdirectory: $work/upstream}}
http: {addr: "127.0.0.1:0"}
${2:-}
END
  docker-registry serve "$work/$1.yml" >>"$work/$1.log" 2>&1 &
  registry_pid=$!
  pids+=("$registry_pid")
  started "docker-registry ($1)" "$registry_pid" "$work/$1.log"
}

# start_upstream: builds images with a layer of `layer_mb` MiB and serves them with an open
# docker-registry, with a log in upstream.log. Sets `upstream` (the address) and the variables of
# serve_registry.
start_upstream() {
  local image
  # shellcheck disable=SC2154 # Set by the scripts that source this file.
  echo "building images, one layer of $layer_mb MiB"
  build_images "$layer_mb"
  serve_registry upstream
  upstream=127.0.0.1:$port
  for image in "app $repository" "artifact $artifact_repository"; do
    skopeo copy --quiet --all --preserve-digests --dest-tls-verify=false "oci:$images/${image% *}:1" "docker://$upstream/${image#* }:1"
  done
}

# start_cache NAME: starts a cache with a separate store. Sets `cache_pid` and `cache` (the
# address).
start_cache() {
  if [ "$direct" = 1 ]; then
    cache=127.0.0.1:$upstream_port
    return
  fi
  # The process must have a single listener, whose port `started` reads.
  LISTEN_ADDR=$host:0 ADMIN_ADDR=off FS_ROOT="$work/store-$1" CONFIG_FILE="$work/cache.yml" STORAGE_BACKEND=fs \
    "$binary" serve >>"$work/cache-$1.log" 2>&1 &
  cache_pid=$!
  pids+=("$cache_pid")
  started "the cache" "$cache_pid" "$work/cache-$1.log"
  cache=$host:$port
}

# ---- The clients: `pull_<client> PHASE` pulls into an empty store and compares ---------------------------------------

path() { if [ "$direct" = 1 ]; then echo "$1"; else echo "$registry/$1"; fi; }

# same NOUN EXPECTED GOT
same() {
  [ "$2" = "$3" ] || { echo "$1 differ; expected:"; echo "$2"; echo "got:"; echo "$3"; return 1; }
}

# skopeo_copies LAYOUT REPOSITORY: copies everything and compares the digest of each file.
skopeo_copies() {
  local out=$work/skopeo-$1 file
  rm -rf "$out"
  skopeo copy --quiet --all "${skopeo_tls[@]}" "${skopeo_flags[@]}" "docker://$cache/$(path "$2"):1" "dir:$out"
  same "root manifests" "$(root_of "$1")" "sha256:$(sha256sum "$out/manifest.json" | cut -d' ' -f1)"
  local found=()
  for file in "$out"/*; do
    [ "${file##*/}" = version ] || found+=("sha256:$(sha256sum "$file" | cut -d' ' -f1)")
  done
  same "digests" "$(all_of "$1")" "$(printf '%s\n' "${found[@]}" | sort)"
  rm -rf "$out"
}

pull_skopeo() {
  skopeo_copies app $repository
  skopeo_copies artifact $artifact_repository
  same "media types" application/vnd.example.thing.config.v1+json \
    "$(skopeo inspect --raw "${skopeo_tls[@]/--src-/--}" "${skopeo_flags[@]/--src-creds/--creds}" "docker://$cache/$(path $artifact_repository):1" | jq -r .config.mediaType)"
}

podman_() { podman --root "$work/podman/root" --runroot "$work/podman/run" --tmpdir "$work/podman/tmp" --storage-driver vfs \
  --events-backend none --cgroup-manager cgroupfs "$@"; }

# podman_pulls REFERENCE
podman_pulls() {
  podman_ pull --quiet "${podman_tls[@]}" "${podman_flags[@]}" "$1"
  same "image IDs" "$(platform_config)" "sha256:$(podman_ image inspect "$1" --format '{{.Id}}')"
  same "layers" "$(platform_diff_ids)" "$(podman_ image inspect "$1" | jq -r '.[0].RootFS.Layers[]')"
  podman_ image inspect "$1" | jq -r '.[0].RepoDigests[]' | grep -F "@$(root_of app)"
  podman_ rmi --force "$1"
  same "images left" "" "$(podman_ images --quiet)"
}

pull_podman() { podman_pulls "$cache/$(path $repository):1"; }

# pull_podman_by_mirror [CACHE]: pulls through mirrors in registries.conf, the usual production
# configuration of podman. CACHE is the mirror after `cache`.
pull_podman_by_mirror() {
  cat >"$work/registries.conf" <<END
[[registry]]
location = "$registry"
[[registry.mirror]]
location = "$cache/$registry"
insecure = true
END
  [ $# = 0 ] || cat >>"$work/registries.conf" <<END
[[registry.mirror]]
location = "$1/$registry"
insecure = true
END
  CONTAINERS_REGISTRIES_CONF=$work/registries.conf podman_pulls "$registry/$repository:1"
}

docker_() { DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/docker-config docker "$@"; }

start_docker() {
  echo '{}' >"$work/daemon.json"
  dockerd --config-file "$work/daemon.json" --iptables=false --bridge=none --storage-driver vfs --data-root "$work/docker" \
    --exec-root "$work/docker-exec" --pidfile "$work/docker.pid" -H "unix://$work/docker.sock" \
    --insecure-registry 127.0.0.0/8 >"$work/docker.log" 2>&1 &
  pids+=($!)
  eventually 60 docker_ version || { tail -n 5 "$work/docker.log"; return 1; }
}

pull_docker() {
  local reference
  reference=$cache/$(path $repository):1
  docker_ pull --quiet "$reference"
  same "image IDs" "$(platform_config)" "$(docker_ image inspect "$reference" --format '{{.Id}}')"
  same "layers" "$(platform_diff_ids)" "$(docker_ image inspect "$reference" | jq -r '.[0].RootFS.Layers[]')"
  docker_ image inspect "$reference" | jq -r '.[0].RepoDigests[]' | grep -F "@$(root_of app)"
  docker_ rmi --force "$reference"
  same "images left" "" "$(docker_ images --quiet)"
}

ctr_() { ctr --address "$work/containerd.sock" "$@"; }

start_containerd() {
  cat >"$work/containerd.toml" <<END
version = 2
root = "$work/containerd"
state = "$work/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "$work/containerd.sock"
[ttrpc]
  address = "$work/containerd.sock.ttrpc"
END
  containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
  pids+=($!)
  eventually 60 ctr_ version || { tail -n 5 "$work/containerd.log"; return 1; }
}

# ctr_pulls REFERENCE FLAG...
ctr_pulls() {
  local reference=$1 digest
  shift
  # The native snapshotter copies instead of mounting, and works on any file system, including
  # overlay.
  ctr_ images pull --snapshotter native "${ctr_flags[@]}" "$@" "$reference"
  same "roots" "$(root_of app)" "$(ctr_ images list | awk -v name="$reference" '$1 == name {print $3}')"
  for digest in $(platform_manifest) $(platform_blobs); do
    same "bytes" "$digest" "sha256:$(ctr_ content get "$digest" | sha256sum | cut -d' ' -f1)"
  done
  # Waits for garbage collection. Otherwise the next pull would find everything locally.
  ctr_ images rm --sync "$reference"
  same "content left" "" "$(ctr_ content list --quiet)"
}

# With hosts.toml. Requests contain `ns=`.
pull_containerd() {
  mkdir -p "$work/hosts/$registry"
  cat >"$work/hosts/$registry/hosts.toml" <<END
[host."$scheme://$cache"]
  capabilities = ["pull", "resolve"]
  $hosts_tls
END
  ctr_pulls "$registry/$repository:1" --hosts-dir "$work/hosts"
}

# By name. The path contains the registry.
pull_containerd_by_path() { ctr_pulls "$cache/$(path $repository):1" --plain-http; }

# ---- Available clients -----------------------------------------------------------------------------------------------

usable() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { skip "$client: $tool is not installed"; return 1; }
  done
  if [ "$client" = docker ] || [ "$client" = containerd ]; then
    [ "$(id -u)" = 0 ] || { skip "$client: the daemon needs root"; return 1; }
  fi
}

ready() {
  case $client in
    skopeo) usable skopeo ;;
    podman) usable podman ;;
    docker) usable dockerd docker && { start_docker || { fail "docker: the daemon does not start"; return 1; }; } ;;
    containerd) usable containerd ctr && { start_containerd || { fail "containerd: the daemon does not start"; return 1; }; } ;;
  esac
}

#!/usr/bin/env bash
# Real clients and private images: skopeo, podman, docker and containerd pull through the cache from Debian's
# docker-registry, which lets in who has a password (htpasswd) or a token: with the server's credentials, for everybody,
# and with their own.
#
#   scripts/clients_private.sh target/release/oci-pull-through
#
# CHECK_STRICT=1 what would be skipped fails.
# LAYER_MB=8     size of the big layer.
# KEEP=1         leaves the working directory and prints its name.
#
# docker, podman and skopeo offer a login only to a host whose `/v2/` asks for one. The cache's does not, because docker
# would send it the password of another registry; so what they bring themselves does not leave them, and they see what is
# public or shared. containerd answers challenges wherever they come.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-}
direct=0
strict=${CHECK_STRICT:-0}
layer_mb=${LAYER_MB:-8}
user=alice
# Searched for in every log and file of the cache.
password=canary-$RANDOM$RANDOM

# Names of one content behind two doors, each once with credentials of the server and once without. None resolves.
registry=basic.test
ours=(basic-ours.test token-ours.test)
theirs=(basic.test token.test)
work=$(mktemp -d "${TMPDIR:-/tmp}/clients.XXXXXX")

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"

# ---- The upstreams --------------------------------------------------------------------------------------------------

# start_upstream NAME AUTH: a docker-registry with the common content and the YAML of its `auth`; sets `port`.
start_upstream() {
  cat >"$work/$1.yml" <<END
version: 0.1
log: {level: info, formatter: text}
storage: {filesystem: {rootdirectory: $work/upstream}}
http: {addr: "127.0.0.1:0"}
$2
END
  docker-registry serve "$work/$1.yml" >>"$work/$1.log" 2>&1 &
  pids+=($!)
  started "docker-registry ($1)" "$!" "$work/$1.log"
}

push() {
  skopeo copy --quiet --all --preserve-digests --dest-tls-verify=false "oci:$images/$1:1" "docker://127.0.0.1:$port/$2:1"
}

# sent DIGEST: how often an upstream has sent this blob whole; a probe is one byte.
sent() {
  cat "$work/basic.log" "$work/token.log" | grep -E "\"GET /v2/[^ ]+/blobs/$1 HTTP[^\"]*\" 200 " | wc -l
}

# sent_once DIGEST...: the upstream logs a transfer when it is over, which may be after the client has everything.
sent_once() {
  local digest
  for digest in "$@"; do
    was_sent() { [ "$(sent "$digest")" -ge 1 ]; }
    eventually 10 was_sent || { echo "$digest was never sent"; return 1; }
    [ "$(sent "$digest")" = 1 ] || { echo "$digest was sent $(sent "$digest") times"; return 1; }
  done
}

# ---- The clients' logins: `as WHO` before a pull ----------------------------------------------------------------------

as() {
  local secret
  skopeo_flags=() podman_flags=() ctr_flags=()
  case $1 in
    nobody) return ;;
    alice) secret=$user:$password ;;
    guesser) secret=$user:guessed ;;
  esac
  skopeo_flags=(--src-creds "$secret") podman_flags=(--creds "$secret") ctr_flags=(--user "$secret")
}

refused() {
  # Not as a condition: bash would ignore `set -e` inside.
  set +e
  (set -e; "$@") >"$work/refused" 2>&1
  local status=$?
  set -e
  [ $status != 0 ] || { echo "it was pulled, and must not have been"; return 1; }
  # For the right reason.
  grep -iE '401|403|unauthorized|denied|forbidden' "$work/refused" || { cat "$work/refused"; return 1; }
}

# nowhere PLACE...: neither the password nor its encoded form.
nowhere() {
  local found
  found=$(grep -rlF -e "$password" -e "$(printf '%s' "$user:$password" | base64)" "$@" || true)
  [ -z "$found" ] || { echo "found in:"; echo "$found"; return 1; }
}

# ---- The run --------------------------------------------------------------------------------------------------------

PATH=$PATH:/usr/sbin:/sbin
for tool in docker-registry htpasswd openssl python3 skopeo jq; do
  command -v $tool >/dev/null || { client="private images"; skip "all: $tool is not installed"; echo "$passed passed, $failed failed, $skipped skipped"; exit $((failed > 0)); }
done
if [ ! -x "$binary" ]; then
  echo "usage: scripts/clients_private.sh BINARY" >&2
  exit 2
fi

echo "building images, one layer of $layer_mb MiB"
build_images "$layer_mb"
start_upstream open ""
push app $repository
push artifact $artifact_repository

htpasswd -B -C 4 -b -c "$work/htpasswd" "$user" "$password" 2>/dev/null
start_upstream basic "auth: {htpasswd: {realm: private, path: $work/htpasswd}}"
basic=127.0.0.1:$port

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout "$work/token.key" -out "$work/token.pem" 2>/dev/null
python3 "$here/clients/token_service.py" "$work/token.key" "$work/token.pem" "$user" "$password" team/ >"$work/tokens.log" 2>&1 &
pids+=($!)
started "the token service" "$!" "$work/tokens.log"
tokens=127.0.0.1:$port
start_upstream token "auth: {token: {realm: \"http://$tokens/token\", service: private, issuer: clients, rootcertbundle: $work/token.pem}}"
token=127.0.0.1:$port

printf '%s\n' "$password" >"$work/password"
cat >"$work/cache.yml" <<END
registries:
  - {name: basic.test, url: "http://$basic"}
  - {name: token.test, url: "http://$token"}
  - {name: basic-ours.test, url: "http://$basic", auth: {username: $user, password_file: $work/password}}
  - name: token-ours.test
    url: http://$token
    auth: {username: $user, password_file: $work/password}
    realm_hosts: ["$tokens"]
END

for client in containerd skopeo podman docker; do
  ready || continue
  start_cache $client
  : >"$work/basic.log"
  : >"$work/token.log"
  if [ $client = containerd ]; then
    for registry in "${theirs[@]}"; do
      as nobody
      check "$client, $registry, without a login" refused pull_$client
      as guesser
      check "$client, $registry, with a wrong password" refused pull_$client
      as alice
      check "$client, $registry, with its own login, first" pull_$client
      check "$client, $registry, with its own login, again" pull_$client
      check "$client, $registry, with its own login, by path" pull_containerd_by_path
      as nobody
      check "$client, $registry, without a login, after that" refused pull_$client
      as guesser
      check "$client, $registry, with a wrong password, after that" refused pull_$client
    done
    mapfile -t expected < <(platform_blobs)
    check "$client, own logins: each blob was sent once" sent_once "${expected[@]}"
  else
    for registry in "${theirs[@]}"; do
      as nobody
      check "$client, $registry, without a login" refused pull_$client
    done
  fi
  as nobody
  for registry in "${ours[@]}"; do
    check "$client, $registry, with the server's credentials, first" pull_$client
    check "$client, $registry, with the server's credentials, again" pull_$client
  done
  if [ $client = skopeo ]; then
    mapfile -t expected < <(blobs_of app; blobs_of artifact)
  else
    mapfile -t expected < <(platform_blobs)
  fi
  check "$client: each blob was sent once" sent_once "${expected[@]}"
  for registry in "${theirs[@]}"; do
    check "$client, $registry, without a login, although it is held" refused pull_$client
  done
  stop "$cache_pid"
  check "$client: no secret is in the log or the store" nowhere "$work/cache-$client.log" "$work/store-$client"
done

echo "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))

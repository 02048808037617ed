# shellcheck shell=bash
# Private images, pulled by skopeo, podman, docker and containerd. The upstream, Debian's
# docker-registry, requires a password (htpasswd) or a token. The clients pull with the server's
# credentials, and with their own.
# Sourced by ../clients.sh.
#
# docker, podman and skopeo send a login only to a host whose `/v2/` returns a challenge. The cache
# returns a challenge only with CLIENT_LOGIN. Without CLIENT_LOGIN, these three clients can read
# public and shared content. containerd answers challenges of any URL. Each client therefore pulls
# from two caches, without and with CLIENT_LOGIN.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry htpasswd openssl python3 skopeo jq

user=alice
# The script searches every log and file of the cache for this password.
password=canary-$RANDOM$RANDOM
# Registry names for the same content behind two registries, with and without credentials of the
# server. None resolves.
ours=(basic-ours.test token-ours.test)
theirs=(basic.test token.test)

# ---- The upstreams --------------------------------------------------------------------------------------------------

push() {
  skopeo copy --quiet --all --preserve-digests --dest-tls-verify=false "oci:$images/$1:1" "docker://127.0.0.1:$port/$2:1"
}

# sent DIGEST: prints the number of complete transfers of this blob by an upstream. A probe reads a
# single byte.
sent() {
  cat "$work/basic.log" "$work/token.log" | grep -E "\"GET /v2/[^ ]+/blobs/$1 HTTP[^\"]*\" 200 " | wc -l
}

# sent_once DIGEST...: passes if each blob was sent once. The upstream logs a transfer at its end,
# possibly after the client has everything.
sent_once() {
  local digest
  for digest in "$@"; do
    was_sent() { [ "$(sent "$digest")" -ge 1 ]; }
    eventually 10 was_sent || { echo "$digest was never sent"; return 1; }
    [ "$(sent "$digest")" = 1 ] || { echo "$digest was sent $(sent "$digest") times"; return 1; }
  done
}

# ---- Logins of the clients: `as LOGIN` before a pull ------------------------------------------------------------------

as() {
  local secret
  skopeo_flags=() podman_flags=() ctr_flags=()
  # docker reads logins from its file: one login per cache, for all images.
  mkdir -p "$work/docker-config"
  echo '{}' >"$work/docker-config/config.json"
  case $1 in
    anonymous) return ;;
    alice) secret=$user:$password ;;
    guesser) secret=$user:guessed ;;
  esac
  printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$cache" "$(printf '%s' "$secret" | base64 -w0)" >"$work/docker-config/config.json"
  skopeo_flags=(--src-creds "$secret") podman_flags=(--creds "$secret") ctr_flags=(--user "$secret")
}

# ---- The run --------------------------------------------------------------------------------------------------------

echo "building images, one layer of $layer_mb MiB"
build_images "$layer_mb"
serve_registry open
push app $repository
push artifact $artifact_repository
open=127.0.0.1:$port

htpasswd -B -C 4 -b -c "$work/htpasswd" "$user" "$password" 2>/dev/null
serve_registry basic "auth: {htpasswd: {realm: private, path: $work/htpasswd}}"
basic=127.0.0.1:$port

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout "$work/token.key" -out "$work/token.pem" 2>/dev/null
python3 "$here/clients/token_service.py" "$work/token.key" "$work/token.pem" "$user" "$password" team/ >"$work/tokens.log" 2>&1 &
pids+=($!)
started "the token service" "$!" "$work/tokens.log"
tokens=127.0.0.1:$port
serve_registry token "auth: {token: {realm: \"http://$tokens/token\", service: private, issuer: clients, rootcertbundle: $work/token.pem}}"
token=127.0.0.1:$port

printf '%s\n' "$password" >"$work/password"
cat >"$work/cache.yml" <<END
registries:
  - {name: basic.test, url: "http://$basic"}
  - name: token.test
    url: http://$token
    realm_hosts: ["$tokens"]
  - {name: open.test, url: "http://$open"}
  - {name: basic-ours.test, url: "http://$basic", auth: {username: $user, password_file: $work/password}}
  - name: token-ours.test
    url: http://$token
    auth: {username: $user, password_file: $work/password}
    realm_hosts: ["$tokens"]
END

# fresh_cache NAME: starts a separate cache, because content of a registry does not count for
# another registry.
fresh_cache() {
  name=$client-$1-$registry
  start_cache "$name"
  : >"$work/basic.log"
  : >"$work/token.log"
}

# done_with_cache: stops the cache and checks the conditions common to all caches.
done_with_cache() {
  stop "$cache_pid"
  check "$label: no secret is in the log or the store" nowhere "$user" "$work/cache-$name.log" "$work/store-$name"
}

# own_logins: checks allowed and forbidden pulls with the client's own login.
own_logins() {
  as anonymous
  check "$label, without a login" refused "$rejection" pull_$client
  as guesser
  check "$label, with a wrong password" refused "$rejection" pull_$client
  as alice
  check "$label, with its own login, first" pull_$client
  check "$label, with its own login, again" pull_$client
  [ $client != containerd ] || check "$label, with its own login, by path" pull_containerd_by_path
  as anonymous
  check "$label, without a login, after that" refused "$rejection" pull_$client
  as guesser
  check "$label, with a wrong password, after that" refused "$rejection" pull_$client
  check "$label: each blob was sent once" sent_once "${expected[@]}"
}

for client in containerd skopeo podman docker; do
  ready || continue
  if [ $client = skopeo ]; then
    mapfile -t expected < <(blobs_of app; blobs_of artifact)
  else
    mapfile -t expected < <(platform_blobs)
  fi

  for registry in "${theirs[@]}"; do
    label="$client, $registry"
    fresh_cache silent
    if [ $client = containerd ]; then
      own_logins
    else
      as anonymous
      check "$label, without a login" refused "$rejection" pull_$client
      as alice
      check "$label, with its own login, without a challenge" refused "$rejection" pull_$client
    fi
    done_with_cache
  done

  as anonymous
  for registry in "${ours[@]}"; do
    label="$client, $registry"
    fresh_cache ours
    check "$label, with the server's credentials, first" pull_$client
    check "$label, with the server's credentials, again" pull_$client
    check "$label: each blob was sent once" sent_once "${expected[@]}"
    registry=${registry/-ours/}
    check "$label, and $registry without a login, although the content is stored" refused "$rejection" pull_$client
    done_with_cache
  done

  export CLIENT_LOGIN=true
  for registry in "${theirs[@]}"; do
    label="$client, asked for a login, $registry"
    fresh_cache asking
    own_logins
    done_with_cache
  done
  registry=open.test
  label="$client, asked for a login, $registry"
  fresh_cache asking
  unset CLIENT_LOGIN
  as alice
  check "$label, with one" pull_$client
  as anonymous
  if [ $client = docker ]; then
    check "$label, without one" refused "$rejection" pull_$client
  else
    check "$label, without one" pull_$client
  fi
  done_with_cache
done

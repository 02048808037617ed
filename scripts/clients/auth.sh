# shellcheck shell=bash
# Client authentication: skopeo, podman, docker and containerd log in and pull. The cache reads its
# users from an htpasswd file and restricts repositories by rules.
# Sourced by ../clients.sh.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry htpasswd python3 skopeo jq

# The script searches every log and file of the cache for this password.
password=canary-$RANDOM$RANDOM

# secret_of LOGIN: prints name and password. Alice may read everything, Bob only another repository.
secret_of() {
  case $1 in
    guesser) echo alice:guessed ;;
    *) echo "$1:$password" ;;
  esac
}

# as LOGIN: sets the login of the next pulls. `anonymous` is no login.
as() {
  local secret
  skopeo_flags=() podman_flags=() ctr_flags=()
  mkdir -p "$work/docker-config"
  echo '{}' >"$work/docker-config/config.json"
  [ "$1" != anonymous ] || return 0
  secret=$(secret_of "$1")
  printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$cache" "$(printf '%s' "$secret" | base64 -w0)" >"$work/docker-config/config.json"
  skopeo_flags=(--src-creds "$secret") podman_flags=(--creds "$secret") ctr_flags=(--user "$secret")
}

# log_in LOGIN: logs in with the client's own `login` command, which containerd lacks.
log_in() {
  local secret
  secret=$(secret_of "$1")
  case $client in
    skopeo) skopeo login --tls-verify=false --authfile "$work/authfile" -u "${secret%%:*}" --password-stdin "$cache" <<<"${secret#*:}" ;;
    podman) podman_ login --tls-verify=false --authfile "$work/authfile" -u "${secret%%:*}" --password-stdin "$cache" <<<"${secret#*:}" ;;
    docker) docker_ login -u "${secret%%:*}" --password-stdin "$cache" <<<"${secret#*:}" ;;
  esac
}

start_upstream

for user in alice bob; do htpasswd -nbB -C 10 $user "$password"; done >"$work/users"
cat >"$work/cache.yml" <<END
auth: {htpasswd_file: $work/users}
allow:
  - {users: [alice], registries: [open.test]}
  - {users: [bob], registries: [open.test], repositories: [something/else]}
registries:
  - {name: open.test, url: "http://$upstream"}
END

for client in containerd skopeo podman docker; do
  ready || continue
  start_cache "$client"
  if [ $client != containerd ]; then
    as anonymous
    check "$client logs in" log_in alice
    check "$client does not log in with a wrong password" refused "$rejection" log_in guesser
  fi
  # Before and after the content is cached.
  for when in before after; do
    for login in anonymous guesser bob; do
      as $login
      check "$client, $login, $when" refused "$rejection" pull_$client
    done
    as alice
    check "$client, alice, $when" pull_$client
  done
  stop "$cache_pid"
  check "$client: no password is in the log or the store" nowhere alice "$work/cache-$client.log" "$work/store-$client"
done

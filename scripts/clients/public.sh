# shellcheck shell=bash
# Public images, pulled by skopeo, podman, docker and containerd: cold, warm, and warm with the upstream stopped.
# Sourced by ../clients.sh.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry skopeo jq

# ---- Upstream requests ----------------------------------------------------------------------------------------------

# content_since LINE: prints content requests after this line of the upstream's log, as `/v2/…`
# paths. Excludes the script's own health check.
content_since() {
  tail -n "+$(($1 + 1))" "$work/upstream.log" | grep -oE '"GET /v2/[^ "]+/(blobs|manifests)/[^ "]+ HTTP' |
    sed 's/^"GET //; s/ HTTP$//; s/?.*//' || true
}

upstream_mark() { wc -l <"$work/upstream.log"; }

asked_for_nothing() {
  local asked
  asked=$(content_since "$1")
  [ -z "$asked" ] || { echo "content requests to the upstream:"; echo "$asked"; return 1; }
}

# asked_once_for MARK DIGEST...: passes after one GET for each of these blobs and no other. The
# upstream logs a request after the response, possibly after the client has everything.
asked_once_for() {
  local mark=$1 wanted
  shift
  wanted=$(printf '%s\n' "$@" | sort)
  blobs_asked() { content_since "$mark" | sed -n 's|.*/blobs/||p' | sort; }
  as_wanted() { [ "$(blobs_asked)" = "$wanted" ]; }
  eventually 10 as_wanted || { echo "expected:"; echo "$wanted"; echo "requested:"; blobs_asked; return 1; }
}

# ---- The run --------------------------------------------------------------------------------------------------------

# status_is STATUS: the status of the platform's manifest.
status_is() {
  local url
  url=http://$cache/v2/$(path $repository)/manifests/$(platform_manifest)
  same "status" "$1" "$(curl --silent --output /dev/null --write-out '%{http_code}' --header 'Accept: */*' "$url")"
}

blobs_expected() {
  if [ "$client" = skopeo ]; then blobs_of app; blobs_of artifact; else platform_blobs; fi
}


start_upstream
upstream_pid=$registry_pid
upstream_port=$port
cat >"$work/cache.yml" <<END
registries:
  - name: $registry
    url: http://127.0.0.1:$upstream_port
END

# A separate cache and store per client, so that each client's first pull is cold.
declare -A cache_of pid_of
for client in skopeo podman docker containerd; do
  ready || continue
  start_cache $client
  cache_of[$client]=$cache pid_of[$client]=${cache_pid:-}
  mark=$(upstream_mark)
  check "$client, cold" "pull_$client"
  if [ "$direct" != 1 ]; then
    mapfile -t expected < <(blobs_expected)
    check "$client, cold: one upstream request for each blob" asked_once_for "$mark" "${expected[@]}"
  fi
  mark=$(upstream_mark)
  check "$client, warm" "pull_$client"
  case $client in
    podman) [ "$direct" = 1 ] || check "podman, warm, mirror in registries.conf" pull_podman_by_mirror ;;
    containerd) check "containerd, warm, registry in the path" pull_containerd_by_path ;;
  esac
  [ "$direct" = 1 ] || check "$client, warm: no content request to the upstream" asked_for_nothing "$mark"
done

if [ "$direct" != 1 ]; then
  stop "$upstream_pid"
  for client in skopeo podman docker containerd; do
    [ -n "${cache_of[$client]:-}" ] || continue
    cache=${cache_of[$client]}
    check "$client, warm, upstream stopped" "pull_$client"
    stop "${pid_of[$client]}"
    start_cache $client
    cache_of[$client]=$cache pid_of[$client]=$cache_pid
    check "$client, warm, upstream stopped, cache restarted" "pull_$client"
  done
  # podman does not go on to the next mirror after it has received a manifest.
  if [ -n "${cache_of[podman]:-}" ] && [ -n "${cache_of[skopeo]:-}" ]; then
    stop "${pid_of[podman]}"
    blob=$(platform_blobs | head -n 1)
    find "$work/store-podman" -name "${blob/:/-}*" -delete
    client=podman
    AIR_GAPPED=true start_cache podman
    check "podman, a blob is missing in an air gap, next mirror" pull_podman_by_mirror "${cache_of[skopeo]}"
    check "podman, a blob is missing in an air gap: the manifest is a 504" status_is 504
  fi
fi

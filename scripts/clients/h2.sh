# shellcheck shell=bash
# HTTP/2: curl, nghttp, h2load, and clients in Go and Python fetch content, in plain text and over
# TLS. h2spec checks conformance with RFC 9113 and RFC 7541.
# Sourced by ../clients.sh.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry skopeo jq openssl python3

# ---- Fetched content ------------------------------------------------------------------------------------------------

start_upstream
echo "registries: [{name: open.test, url: \"http://$upstream\"}]" >"$work/cache.yml"

# Lines of a digest and its path.
{
  for digest in $(platform_blobs); do echo "$digest /v2/$registry/$repository/blobs/$digest"; done
  for digest in $(platform_manifest) $(root_of app); do echo "$digest /v2/$registry/$repository/manifests/$digest"; done
} >"$work/list"
small=$(awk 'END {print $2}' "$work/list")

# ---- Clients --------------------------------------------------------------------------------------------------------

# has_digest DIGEST FILE
has_digest() { same "digests" "$1" "sha256:$(sha256sum "$2" | cut -d' ' -f1)"; }

# curl_gets: with TLS, sends all requests over a single connection. Without TLS, curl 7.88 fails at
# the second request before sending, so each request gets a separate run.
curl_gets() {
  local digest path n=0 arguments=(--silent --show-error --fail --write-out '%{http_version}\n') all=()
  : >"$work/versions"
  while read -r digest path; do
    n=$((n + 1))
    if [ -n "$ca" ]; then
      all+=(--output "$work/curl-$n" "$url$path")
    else
      curl "${arguments[@]}" --http2-prior-knowledge --output "$work/curl-$n" "$url$path" >>"$work/versions"
    fi
  done <"$work/list"
  [ -z "$ca" ] || curl "${arguments[@]}" --parallel --http2 --cacert "$ca" "${all[@]}" >"$work/versions"
  same "versions" 2 "$(sort -u "$work/versions")"
  n=0
  while read -r digest path; do
    n=$((n + 1))
    has_digest "$digest" "$work/curl-$n"
  done <"$work/list"
}

# The server ignores an upgrade offer of HTTP/1.1 and answers the request.
curl_offers() { same "version and status" "1.1 200" "$(curl --silent --http2 --output /dev/null --write-out '%{http_version} %{http_code}' "$url/v2/")"; }

nghttp_gets() {
  local digest path
  while read -r digest path; do
    nghttp --no-verify-peer --window-bits=16 "$url$path" >"$work/nghttp"
    has_digest "$digest" "$work/nghttp"
  done <"$work/list"
}

# h2load_gets REQUESTS CONNECTIONS STREAMS PATH
h2load_gets() {
  h2load --requests="$1" --clients="$2" --max-concurrent-streams="$3" "$url$4" | tee "$work/h2load"
  grep -q "^status codes: $1 2xx, 0 3xx, 0 4xx, 0 5xx" "$work/h2load"
  grep -q " $1 succeeded, 0 failed, 0 errored, 0 timeout" "$work/h2load"
}

go_gets() { "$work/h2_get" "$url" "$ca" "$work/list"; }

python_gets() { "$python" "$here/clients/h2_get.py" "$url" "$ca" "$work/list"; }

# The cases of the specification. The timeout is chosen for slow machines.
spec() {
  local arguments=(--host 127.0.0.1 --port "${cache##*:}" --path /v2/ --timeout 5)
  [ -z "$ca" ] || arguments+=(--tls --insecure)
  "$h2spec" "${arguments[@]}" >"$work/h2spec.log" 2>&1 || { sed -n '/^Failures/,$p' "$work/h2spec.log"; return 1; }
  tail -n 1 "$work/h2spec.log"
}

# ---- Available clients ----------------------------------------------------------------------------------------------

# Debian packages these Python modules. Elsewhere pip installs them into a separate environment.
python=
has_httpx() { "$1" -c 'import h2, httpx' 2>/dev/null; }
for candidate in /usr/bin/python3 python3; do
  if has_httpx $candidate; then python=$candidate; break; fi
done
if [ -z "$python" ] && python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check 'httpx[http2]' >"$work/pip.log" 2>&1; then
  python=$work/venv/bin/python
fi

export GOTOOLCHAIN=local GOFLAGS=-mod=mod
go_plain=0
if command -v go >/dev/null; then
  # Before 1.24, Go supports HTTP/2 only over TLS.
  if [ "$(printf '%s\n' 1.24 "$(go env GOVERSION | sed 's/^go//')" | sort -V | head -n 1)" = 1.24 ]; then go_plain=1; fi
  check "Go's client is built" eval "cd '$here/clients/h2_go' && go build -o '$work/h2_get' ."
fi

h2spec=${H2SPEC:-$(command -v h2spec || true)}
build_h2spec() {
  mkdir -p "$work/h2spec"
  cd "$work/h2spec" || return
  # h2spec declares no versions of its dependencies. These are old enough for any Go in use.
  cat >go.mod <<'END'
module build

go 1.18

require (
	github.com/summerwind/h2spec v2.2.1+incompatible
	github.com/fatih/color v1.15.0
	github.com/spf13/cobra v1.7.0
	golang.org/x/net v0.12.0
)
END
  timeout 120 go build -o "$work/h2spec/h2spec" github.com/summerwind/h2spec/cmd/h2spec
}
if [ -z "$h2spec" ] && command -v go >/dev/null; then
  if (build_h2spec) >"$work/h2spec.log" 2>&1; then h2spec=$work/h2spec/h2spec; else tail -n 3 "$work/h2spec.log"; fi
  rm -f "$work/h2spec.log"
fi

# ---- Plain text and TLS ---------------------------------------------------------------------------------------------

for transport in plain TLS; do
  ca=
  if [ $transport = plain ]; then
    start_cache plain
    url=http://$cache
  else
    GENERATE_SELF_SIGNED_TLS=true start_cache tls
    url=https://$cache
    ca=$work/ca.pem
    openssl s_client -connect "$cache" </dev/null 2>/dev/null | openssl x509 >"$ca"
  fi
  if curl --version | grep -q HTTP2; then
    # Before and after the content is cached.
    for when in before after; do check "curl, $transport, $when" curl_gets; done
    [ $transport = TLS ] || check "curl offers an upgrade to HTTP/2" curl_offers
  else
    skip "curl, $transport: the installed curl does not support HTTP/2"
  fi
  if command -v nghttp >/dev/null && command -v h2load >/dev/null; then
    check "nghttp, $transport" nghttp_gets
    check "h2load, a hundred streams on each of ten connections, $transport" h2load_gets 20000 10 100 "$small"
    check "h2load, many large bodies, $transport" h2load_gets 40 2 20 "$(awk 'NR == 1 {print $2}' <(grep /blobs/ "$work/list"))"
  else
    skip "nghttp and h2load, $transport: not installed (nghttp2-client)"
  fi
  if [ ! -x "$work/h2_get" ]; then
    skip "Go, $transport: not installed (golang-go)"
  elif [ $transport = plain ] && [ $go_plain = 0 ]; then
    # No package could change this, so the check does not count as skipped.
    echo "Go before 1.24 supports HTTP/2 only over TLS"
  else
    check "Go's client, $transport" go_gets
  fi
  if [ -n "$python" ]; then
    check "Python's h2 and httpx, $transport" python_gets
  else
    skip "Python, $transport: h2 and httpx are not installed (python3-h2, python3-httpx)"
  fi
  if [ -n "$h2spec" ]; then
    check "h2spec, $transport" spec
    [ ! -e "$work/h2spec.log" ] || tail -n 1 "$work/h2spec.log"
  else
    # CHECK_STRICT cannot provide a network. The check is listed as skipped, without a failure.
    skipped=$((skipped + 1))
    echo "SKIP  h2spec, $transport: not installed, and Go could not fetch the source"
  fi
  stop "$cache_pid"
done

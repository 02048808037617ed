# shellcheck shell=bash
# TLS: curl, openssl, skopeo, podman, docker and containerd connect to a cache with a certificate of
# a new authority. The clients trust the authority or not, and log in with a certificate, with a
# password or not at all.
# Sourced by ../clients.sh.
#
# docker does not verify certificates of loopback addresses, and reads authorities only below
# /etc/docker. ../clients.sh therefore runs this part in a separate network and mount namespace,
# which needs root.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry python3 skopeo jq curl openssl ip
[ -n "${CLIENTS_INSIDE:-}" ] || { skip "all: a separate network namespace needs root"; summary; }

# The script searches every log and file of the cache for this password.
password=canary-$RANDOM$RANDOM

# A documentation address (RFC 5737), which belongs to no host.
host=192.0.2.1
ip link set lo up
ip address add $host/32 dev lo
mkdir -p /etc/docker "$work/etc-docker/certs.d"
mount --bind "$work/etc-docker" /etc/docker

# ---- Certificates ---------------------------------------------------------------------------------------------------

pki=$work/pki
mkdir "$pki"

# authority NAME
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=authority $1" \
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$pki/$1.key" -out "$pki/$1.crt"
}

# certificate NAME AUTHORITY SUBJECT_ALT_NAME
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$pki/$1.key" -out "$pki/$1.csr"
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n' "$3" >"$pki/$1.ext"
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/$2.crt" -CAkey "$pki/$2.key" -CAcreateserial -days 2 \
    -extfile "$pki/$1.ext" -out "$pki/$1.crt"
}

{
  authority ours
  authority clients
  authority others
  certificate server ours "IP:$host,DNS:cache.test"
  certificate node-1 clients DNS:node-1.test
  certificate stranger others DNS:node-1.test
} >"$work/pki.log" 2>&1 || { cat "$work/pki.log"; exit 1; }

# ---- Trust and credentials of the clients ---------------------------------------------------------------------------

# configure_client AUTHORITY CERTIFICATE LOGIN: sets the trusted authority, client certificate and
# login of the next pulls. `-` for none.
configure_client() {
  local dir=$pki/known docker=/etc/docker/certs.d/$cache
  rm -rf "$dir" "$docker"
  mkdir -p "$dir" "$docker" "$work/docker-config"
  skopeo_flags=() podman_flags=() ctr_flags=() curl_flags=() openssl_flags=() hosts_tls=''
  echo '{}' >"$work/docker-config/config.json"
  if [ "$1" != - ]; then
    cp "$pki/$1.crt" "$dir/ca.crt"
    hosts_tls="ca = \"$dir/ca.crt\""
    curl_flags+=(--cacert "$dir/ca.crt") openssl_flags+=(-CAfile "$dir/ca.crt")
  fi
  if [ "$2" != - ]; then
    cp "$pki/$2.crt" "$dir/client.cert"
    cp "$pki/$2.key" "$dir/client.key"
    hosts_tls+=$'\n'"  client = [[\"$dir/client.cert\", \"$dir/client.key\"]]"
    curl_flags+=(--cert "$dir/client.cert" --key "$dir/client.key")
    openssl_flags+=(-cert "$dir/client.cert" -key "$dir/client.key")
  fi
  cp "$dir"/* "$docker/" 2>/dev/null || true
  skopeo_tls=(--src-tls-verify=true "--src-cert-dir=$dir") podman_tls=(--tls-verify=true "--cert-dir=$dir")
  [ "$3" != - ] || return 0
  printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$cache" "$(printf '%s' "$3" | base64 -w0)" >"$work/docker-config/config.json"
  skopeo_flags=(--src-creds "$3") podman_flags=(--creds "$3") ctr_flags=(--user "$3") curl_flags+=(--user "$3")
}

# curl and openssl pull the index and compare it.
index() { echo "/v2/$(path $repository)/manifests/1"; }

pull_curl() {
  local version spoken
  for version in 1.1 2; do
    rm -f "$work/index"
    spoken=$(curl --silent --show-error --noproxy '*' --max-time 20 --fail "--http$version" "${curl_flags[@]}" \
      -o "$work/index" -w '%{http_version}' "https://$cache$(index)")
    same "versions" "$version" "$spoken"
    same "indices" "$(root_of app)" "sha256:$(sha256sum "$work/index" | cut -d' ' -f1)"
  done
}

# openssl_asks OPTION...: requests the index once, over a session that is saved for resumption.
openssl_asks() {
  local login=
  [ "${#ctr_flags[@]}" = 0 ] || login="Authorization: Basic $(printf '%s' "${ctr_flags[1]}" | base64 -w0)"$'\r\n'
  printf 'GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n' "$(index)" "$cache" "$login" |
    timeout 20 openssl s_client -connect "$cache" -verify_return_error -verify_ip $host -ign_eof "${openssl_flags[@]}" "$@" 2>&1
}

pull_openssl() {
  local version
  for version in -tls1_2 -tls1_3; do
    openssl_asks $version -sess_out "$work/session" >"$work/asked"
    grep -aF 'HTTP/1.1 200 OK' "$work/asked"
    grep -aF 'Verification: OK' "$work/asked"
    openssl_asks $version -sess_in "$work/session" >"$work/asked"
    grep -aF 'HTTP/1.1 200 OK' "$work/asked"
    grep -aF 'Reused, TLSv1' "$work/asked"
  done
}

# ---- The upstream and the caches ------------------------------------------------------------------------------------

start_upstream

# configure KEYS: writes the configuration of the next cache.
configure() {
  cat >"$work/cache.yml" <<END
tls_cert_file: $pki/server.crt
tls_key_file: $pki/server.key
$1
registries:
  - {name: open.test, url: "http://$upstream"}
END
}

scheme=https
untrusted='unknown authority|unable to get local issuer|unable to verify|certificate verify failed|SSL certificate problem'
demanded='certificate.required|bad.certificate|handshake.failure|alert'
# Clients in Go send no certificate of an authority that the server does not name.
wrong='certificate.required|unknown.ca|bad.certificate|certificate.verify|alert|decrypt'
# Error messages of clients after a registry rejects a password. curl prints only the status.
unauthorized='unauthorized|returned error: 401'
outside='401|unauthorized|no basic auth credentials|authentication required'

configure "auth: {username: alice, password: $password, client_certificates: [CN=node-*]}
tls_client_ca_file: $pki/clients.crt
tls_client_auth: optional"
start_cache auth
auth=$cache
configure "tls_client_ca_file: $pki/clients.crt"
start_cache mutual
mutual=$cache
configure ""
start_cache trusted
trusted=$cache

# refused_a_password COMMAND: passes if COMMAND fails with this reason and without a report of a
# wrong scheme, because clients try another scheme after a rejection.
refused_a_password() {
  refused "$unauthorized" "$1"
  ! grep -aiE '400 Bad Request|HTTP response to HTTPS client' "$work/refused"
}

: >"$work/asked"
for client in curl openssl skopeo podman docker containerd; do
  ready || continue
  cache=$trusted
  configure_client ours - -
  check "$client trusts the authority" pull_$client
  configure_client others - -
  check "$client does not trust another authority" refused "$untrusted" pull_$client
  cache=$mutual
  configure_client ours node-1 -
  check "$client sends its certificate" pull_$client
  configure_client ours - -
  check "$client sends no certificate" refused "$demanded" pull_$client
  configure_client ours stranger -
  check "$client sends a certificate of another authority" refused "$wrong" pull_$client
  cache=$auth
  configure_client ours - "alice:$password"
  check "$client is accepted with a password" pull_$client
  configure_client ours - "alice:wrong"
  check "$client is rejected with a wrong password" refused_a_password pull_$client
  configure_client ours node-1 -
  check "$client is accepted with its certificate" pull_$client
  configure_client ours - -
  check "$client is rejected without password and certificate" refused "$outside" pull_$client
done
check "no password is in a log or a store" nowhere alice "$work"/cache-*.log "$work"/store-*

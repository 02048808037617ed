# shellcheck shell=bash
# Signatures: cosign, oras and notation verify, list and copy artifacts attached to an image: cold,
# warm, and with a stopped upstream and a restarted cache. The upstream is first Debian's
# docker-registry, which has no referrers API, and then crane's registry, which has the API.
# Sourced by ../clients.sh.
#
# `go` builds tools that are neither in PATH nor in TOOLS into TOOLS, which takes minutes. Without
# `go`, or if the module proxy lacks a tool, the tool's part is skipped. If the notation command
# cannot be built, a program based on its library signs and verifies. Nothing else needs a network.
# Keys are generated here, and no transparency log is used.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"

# go writes module checksums to the source directory, so a copy is built.
build_notation_library() { cp -r "$here/clients/notation" "$work/notation-library" && go -C "$work/notation-library" build -o "$tools/notation-library" .; }

# The command of the Notary Project, or a program based on its library.
tool_notation() {
  buildable notation go install github.com/notaryproject/notation/cmd/notation@latest && { have+=(notation); return; }
  buildable notation-library build_notation_library && { have+=(notation-library); return; }
  skip "notation: $missing"
}

have=()
tool oras oras.land/oras/cmd/oras@latest || summary
tool cosign github.com/sigstore/cosign/v3/cmd/cosign@latest && have+=(cosign)
tool_notation

# Keys and settings of the tools are in the working directory.
export HOME=$work/home COSIGN_PASSWORD=canary
mkdir -p "$HOME"

has() { [[ " ${have[*]} " = *" $1 "* ]]; }

# Attaches artifacts at the upstream: a bundle, a signature of the older kind, an SBOM, and a
# signature of the SBOM.
sign_everything() {
  local name=$upstream/$repository digest sbom
  echo content >"$work/content"
  (cd "$work" && oras push --plain-http "$name:1" content:text/plain)
  digest=$(oras resolve --plain-http "$name:1")
  (cd "$work" && oras attach --plain-http --artifact-type application/vnd.example.sbom "$name@$digest" content:text/plain)
  sbom=$(oras discover --plain-http --format json "$name:1" | jq -r '(.referrers // .manifests)[0].digest')
  (cd "$work" && oras attach --plain-http --artifact-type application/vnd.example.note "$name@$sbom" content:text/plain)
  if has cosign; then
    (cd "$work" && cosign generate-key-pair)
    for kind in true false; do
      cosign sign --yes --key "$work/cosign.key" --use-signing-config=false --tlog-upload=false \
        --new-bundle-format=$kind --allow-http-registry "$name@$digest"
    done
  fi
  if has notation; then
    notation cert generate-test --default test.example
    notation sign --insecure-registry "$name@$digest"
    cat >"$HOME/trust.json" <<END
{"version": "1.0", "trustPolicies": [{"name": "all", "registryScopes": ["*"], "signatureVerification": {"level": "strict"},
  "trustStores": ["ca:test.example"], "trustedIdentities": ["*"]}]}
END
    notation policy import --force "$HOME/trust.json"
  fi
  if has notation-library; then notation-library sign "$HOME/notation" "$name@$digest"; fi
  wanted_graph=$(graph "$name:1")
}

# graph REFERENCE FLAG...: prints the digests of all attached artifacts, at any depth.
graph() { oras discover --plain-http --format json --depth 4 "$1" | jq -r '.. | .digest? // empty' | sort -u; }

image() { echo "$cache/$registry/$repository:1"; }

verify_bundle() { cosign verify --key "$work/cosign.pub" --insecure-ignore-tlog --allow-http-registry "$(image)"; }
verify_old() { cosign verify --key "$work/cosign.pub" --insecure-ignore-tlog --allow-http-registry --new-bundle-format=false "$(image)"; }
tree() { cosign tree --allow-http-registry "$(image)" | tee "$work/tree" && grep -q 'Signatures for an image tag' "$work/tree" && grep -q 'application/vnd.example.sbom' "$work/tree"; }
discover() { same "attached" "$wanted_graph" "$(graph "$(image)")"; }
discover_one() { oras discover --plain-http --artifact-type application/vnd.example.sbom --format json "$(image)" | grep -F application/vnd.example.sbom; }
copy() {
  rm -rf "$work/copy"
  oras cp -r --from-plain-http --to-oci-layout "$(image)" "$work/copy:1"
  same "attached to the copy" "$wanted_graph" "$(oras discover --oci-layout --format json --depth 4 "$work/copy:1" | jq -r '.. | .digest? // empty' | sort -u)"
}
verify_notation() { notation verify --insecure-registry "$(image)"; }
verify_notation_library() { notation-library verify "$HOME/notation" "$(image)"; }

all() {
  check "$1, oras discover" discover
  check "$1, oras discover of one type" discover_one
  check "$1, oras cp -r" copy
  if has cosign; then
    check "$1, cosign verify of a bundle" verify_bundle
    check "$1, cosign verify of a signature by tag" verify_old
    check "$1, cosign tree" tree
  fi
  if has notation; then check "$1, notation verify" verify_notation; fi
  if has notation-library; then check "$1, notation verify (by its library)" verify_notation_library; fi
}

# asked: prints the number of requests answered by Debian's registry.
asked() { grep -c '"[A-Z]* /v2/[^"]* HTTP/' "$work/upstream.log" || true; }

# verify_again: fails if a second run causes an upstream request. The cache remembers a 404 for five
# seconds, so a run of more than two seconds proves nothing.
verify_again() {
  local before began
  verify_bundle && tree
  before=$(asked) began=$(date +%s%N)
  verify_bundle && tree
  local asked=$(($(asked) - before)) ms=$((($(date +%s%N) - began) / 1000000))
  echo "$asked requests in $ms ms, $before before"
  [ "$before" -gt 0 ] || return 1
  [ "$asked" = 0 ] || [ "$ms" -gt 2000 ]
}

# serve_crane: starts a registry with the referrers API. Sets the variables of serve_registry.
serve_crane() {
  crane registry serve --address 127.0.0.1:0 --disk "$work/crane" >>"$work/crane.log" 2>&1 &
  registry_pid=$!
  pids+=("$registry_pid")
  mkdir -p "$work/crane"
  started "crane's registry" "$registry_pid" "$work/crane.log"
}

# run KIND: runs all checks with the upstream that was just started.
run() {
  upstream=127.0.0.1:$port
  printf 'registries:\n  - {name: %s, url: "http://%s"}\n' "$registry" "$upstream" >"$work/cache.yml"
  rm -f "$work"/cosign.*
  sign_everything >"$work/sign.log" 2>&1 || { fail "$1: signing failed"; tail -n 15 "$work/sign.log"; return; }
  start_cache "$1"
  all "$1, cold"
  all "$1, warm"
  if [ "$1" = "without the API" ] && has cosign; then
    check "$1, cosign verify and tree again" verify_again
    grep ' requests in ' "$work/output" | sed 's/^/        /' || true
  fi
  stop "$registry_pid"
  all "$1, upstream stopped"
  stop "$cache_pid"
  start_cache "$1"
  all "$1, upstream stopped, cache restarted"
  stop "$cache_pid"
  printf 'air_gapped: true\n' >>"$work/cache.yml"
  start_cache "$1"
  all "$1, air-gapped"
  stop "$cache_pid"
}

client=docker-registry
if command -v docker-registry >/dev/null; then
  serve_registry upstream
  run "without the API"
else
  skip "without the API: docker-registry is not installed"
fi
if tool crane github.com/google/go-containerregistry/cmd/crane@latest; then
  serve_crane
  run "with the API"
fi

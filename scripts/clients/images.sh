# shellcheck shell=bash
# Builds images without a network: OCI layouts, written with coreutils, tar, gzip and jq.
# Sourced by common.sh. `$images` is the directory of the layouts.
: "${images:?}"

# put LAYOUT FILE MEDIA_TYPE: moves FILE into LAYOUT's blobs and prints its descriptor.
put() {
  local hex size
  hex=$(sha256sum "$2" | cut -d' ' -f1)
  size=$(stat -c %s "$2")
  mv "$2" "$1/blobs/sha256/$hex"
  jq -cn --arg type "$3" --arg digest "sha256:$hex" --argjson size "$size" \
    '{mediaType: $type, digest: $digest, size: $size}'
}

# layer LAYOUT NAME BYTES gzip|plain: adds a layer with a file NAME of random bytes. Prints
# `DESCRIPTOR<tab>DIFF_ID`.
layer() {
  local dir=$images/build/$2 tar=$images/build/$2.tar diff_id descriptor
  mkdir -p "$dir/srv"
  head -c "$3" /dev/urandom >"$dir/srv/$2"
  tar --owner=0 --group=0 --numeric-owner -C "$dir" -cf "$tar" srv
  rm -r "$dir"
  diff_id=sha256:$(sha256sum "$tar" | cut -d' ' -f1)
  if [ "$4" = gzip ]; then
    gzip -1 "$tar"
    descriptor=$(put "$1" "$tar.gz" application/vnd.oci.image.layer.v1.tar+gzip)
  else
    descriptor=$(put "$1" "$tar" application/vnd.oci.image.layer.v1.tar)
  fi
  printf '%s\t%s\n' "$descriptor" "$diff_id"
}

# manifest LAYOUT ARCHITECTURE LAYER...: adds an image manifest and its config, for layers as
# printed by `layer`.
manifest() {
  local layout=$1 arch=$2 layers config
  shift 2
  layers=$(printf '%s\n' "$@" | jq -Rcn '[inputs | split("\t") | {descriptor: .[0] | fromjson, diff_id: .[1]}]')
  jq -n --arg arch "$arch" --argjson layers "$layers" '{architecture: $arch, os: "linux", config: {Cmd: ["/srv/none"]},
    rootfs: {type: "layers", diff_ids: [$layers[].diff_id]}}' >"$images/build/config"
  config=$(put "$layout" "$images/build/config" application/vnd.oci.image.config.v1+json)
  jq -n --argjson config "$config" --argjson layers "$layers" '{schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: [$layers[].descriptor]}' \
    >"$images/build/manifest"
  put "$layout" "$images/build/manifest" application/vnd.oci.image.manifest.v1+json |
    jq -c --arg arch "$arch" '. + {platform: {os: "linux", architecture: $arch}}'
}

# finish LAYOUT DESCRIPTOR: makes DESCRIPTOR the root of the layout.
finish() {
  echo '{"imageLayoutVersion": "1.0.0"}' >"$1/oci-layout"
  jq -n --argjson root "$2" '{schemaVersion: 2, manifests: [$root + {annotations: {"org.opencontainers.image.ref.name": "1"}}]}' \
    >"$1/index.json"
}

# build_images BIG_LAYER_MB: builds `app` (two architectures, three layers each, one of them big)
# and `artifact` (custom media types).
build_images() {
  local app=$images/app artifact=$images/artifact small other medium big index config content
  mkdir -p "$images/build" "$app/blobs/sha256" "$artifact/blobs/sha256"
  small=$(layer "$app" small-amd64 2000 gzip)
  other=$(layer "$app" small-arm64 2000 gzip)
  medium=$(layer "$app" medium 5000000 gzip)
  big=$(layer "$app" big "$(($1 * 1024 * 1024))" plain)
  jq -n --argjson amd64 "$(manifest "$app" amd64 "$small" "$medium" "$big")" \
    --argjson arm64 "$(manifest "$app" arm64 "$other" "$medium" "$big")" '{schemaVersion: 2,
      mediaType: "application/vnd.oci.image.index.v1+json", manifests: [$amd64, $arm64]}' >"$images/build/index"
  index=$(put "$app" "$images/build/index" application/vnd.oci.image.index.v1+json)
  finish "$app" "$index"

  echo '{"what": "no image at all"}' >"$images/build/config"
  head -c 300000 /dev/urandom >"$images/build/content"
  config=$(put "$artifact" "$images/build/config" application/vnd.example.thing.config.v1+json)
  content=$(put "$artifact" "$images/build/content" application/vnd.example.thing.content.v1+octets)
  jq -n --argjson config "$config" --argjson content "$content" '{schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: [$content]}' \
    >"$images/build/manifest"
  finish "$artifact" "$(put "$artifact" "$images/build/manifest" application/vnd.oci.image.manifest.v1+json)"
}

# root_of LAYOUT: prints the digest of the layout's root, an index or manifest.
root_of() {
  jq -r '.manifests[0].digest' "$images/$1/index.json"
}

# json_of LAYOUT DIGEST: prints the path of the blob.
json_of() {
  echo "$images/$1/blobs/${2/://}"
}

# platform_manifest: prints the digest of the manifest in `app` for this machine's architecture.
platform_manifest() {
  local arch=amd64
  [ "$(uname -m)" = aarch64 ] && arch=arm64
  jq -r --arg arch "$arch" '.manifests[] | select(.platform.architecture == $arch).digest' "$(json_of app "$(root_of app)")"
}

# platform_config: prints the config digest of this manifest, which is the image ID in docker and
# podman.
platform_config() {
  jq -r '.config.digest' "$(json_of app "$(platform_manifest)")"
}

# platform_blobs: prints the digests of config and layers of this manifest.
platform_blobs() {
  jq -r '(.config, .layers[]).digest' "$(json_of app "$(platform_manifest)")"
}

# platform_diff_ids: prints the digests of the uncompressed layers, as shown by docker and podman.
platform_diff_ids() {
  jq -r '.rootfs.diff_ids[]' "$(json_of app "$(platform_config)")"
}

# all_of LAYOUT: prints every digest in the layout.
all_of() {
  find "$images/$1/blobs/sha256" -type f -printf 'sha256:%f\n' | sort
}

# blobs_of LAYOUT: prints every digest in the layout except for manifests and indexes.
blobs_of() {
  local digest
  for digest in $(all_of "$1"); do
    [ "$(stat -c %s "$(json_of "$1" "$digest")")" -lt 100000 ] &&
      jq -e '.schemaVersion' "$(json_of "$1" "$digest")" >/dev/null 2>&1 || echo "$digest"
  done
}

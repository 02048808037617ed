# shellcheck shell=bash
# Bundles of `export`, read by skopeo, podman, docker, containerd, oras and crane. The digests of all tools equal
# those of the registry. Sourced by ../clients.sh.
#
# `go` builds oras and crane into TOOLS if they are missing, as for the part signatures.
: "${here:?}"

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"
needs docker-registry skopeo jq tar

# export_bundle NAME FLAG...: exports into NAME.
export_bundle() {
  local out=$work/$1
  shift
  FS_ROOT=$work/store-bundle CONFIG_FILE=$work/cache.yml "$binary" export --quiet -o "$out" "$@"
}

image=$registry/$repository:1

exports_equal() {
  export_bundle again.tar --all
  cmp "$work/all.tar" "$work/again.tar"
}

# The bytes of the whole index, of all platforms.
read_by_skopeo() {
  local out=$work/skopeo-bundle
  skopeo copy --quiet --all --preserve-digests "oci-archive:$work/all.tar:$image" "dir:$out"
  same "root manifests" "$(root_of app)" "sha256:$(sha256sum "$out/manifest.json" | cut -d' ' -f1)"
  same "digests" "$(all_of app)" "$(sha256sum "$out"/* | cut -d' ' -f1 | sed 's/^/sha256:/' | grep -vxF "sha256:$(sha256sum "$out/version" | cut -d' ' -f1)" | sort)"
}

read_by_podman() {
  podman_ load --quiet --input "$work/one.tar"
  same "image IDs" "$(platform_config)" "sha256:$(podman_ image inspect "$image" --format '{{.Id}}')"
  same "layers" "$(platform_diff_ids)" "$(podman_ image inspect "$image" | jq -r '.[0].RootFS.Layers[]')"
}

read_by_docker() {
  docker_ load --quiet --input "$work/one.tar"
  same "image IDs" "$(platform_config)" "$(docker_ image inspect "$image" --format '{{.Id}}')"
  same "layers" "$(platform_diff_ids)" "$(docker_ image inspect "$image" | jq -r '.[0].RootFS.Layers[]')"
}

read_by_containerd() {
  local digest
  ctr_ images import --snapshotter native --all-platforms --no-unpack "$work/all.tar"
  same "roots" "$(root_of app)" "$(ctr_ images list | awk -v name="$image" '$1 == name {print $3}')"
  for digest in $(all_of app); do
    same "bytes" "$digest" "sha256:$(ctr_ content get "$digest" | sha256sum | cut -d' ' -f1)"
  done
}

# One platform of the index, unpacked as for a container.
unpacked_by_containerd() {
  ctr_ images import --snapshotter native "$work/one.tar"
  same "roots" "$(root_of app)" "$(ctr_ images list | awk -v name="$image" '$1 == name {print $3}')"
}

unpack_layout() {
  [ -e "$work/layout" ] || { mkdir "$work/layout" && tar -xf "$work/all.tar" -C "$work/layout"; }
}

read_by_oras() {
  unpack_layout
  oras copy --recursive --from-oci-layout "$work/layout@$(root_of app)" --to-oci-layout "$work/oras:1"
  same "roots" "$(root_of app)" "$(jq -r '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == "1").digest' "$work/oras/index.json")"
}

# crane reads a layout with several images as one index.
read_by_crane() {
  unpack_layout
  crane push --insecure --index "$work/layout" "$upstream/from/crane:1"
  same "digests" "$(root_of app)" "$(crane manifest --insecure "$upstream/from/crane:1" | jq -r --arg name "$image" \
    '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $name).digest')"
}

volumes_are_the_bundle() {
  export_bundle parts.tar --all --split 4MiB
  same "volumes" "$(sha256sum <"$work/all.tar")" "$(jq -r '.volumes[].name' "$work/parts.tar.volumes.json" | (cd "$work" && xargs cat) | sha256sum)"
  jq -r '.volumes[] | (.digest | ltrimstr("sha256:")) + "  " + .name' "$work/parts.tar.volumes.json" | (cd "$work" && sha256sum --check --quiet)
}

compressed_is_the_bundle() {
  export_bundle all.tar.zst --all --zstd
  zstd --decompress --stdout --quiet "$work/all.tar.zst" | cmp - "$work/all.tar"
}

start_upstream
printf 'registries:\n  - name: %s\n    url: http://%s\n' "$registry" "$upstream" >"$work/cache.yml"
start_cache bundle
skopeo_copies app $repository
skopeo_copies artifact $artifact_repository
# The cache stores a tag after its response.
tags_stored() { [ "$(FS_ROOT=$work/store-bundle "$binary" list --output name | grep -c ':1$')" = 2 ]; }
eventually 30 tags_stored
check "export of all images" export_bundle all.tar --all --platform all
check "export of one platform" export_bundle one.tar "$image" --platform host
check "two exports are equal" exports_equal
check "volumes" volumes_are_the_bundle
if command -v zstd >/dev/null; then check "zstd" compressed_is_the_bundle; else skip "zstd: not installed"; fi
check "skopeo" read_by_skopeo
client=podman
if ready; then check "podman load" read_by_podman; fi
client=docker
if ready; then check "docker load" read_by_docker; fi
client=containerd
if ready; then
  check "ctr images import" read_by_containerd
  check "ctr images import, unpacked" unpacked_by_containerd
fi
if tool oras oras.land/oras/cmd/oras@latest; then check "oras copy" read_by_oras; fi
if tool crane github.com/google/go-containerregistry/cmd/crane@latest; then check "crane push" read_by_crane; fi

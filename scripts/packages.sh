#!/usr/bin/env bash
# Builds the deb and the rpm from a built program.
#
#   scripts/packages.sh OUTPUT_DIRECTORY BINARY    BINARY: a static program, see scripts/image.sh
#
# nfpm, help2man and gzip must be installed: go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
# SOURCE_DATE_EPOCH  the time of all files in the packages, by default the time of the last commit.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 2 ] || { echo "usage: scripts/packages.sh OUTPUT_DIRECTORY BINARY" >&2; exit 2; }
output=$1 binary=$2
PATH=$PATH:$HOME/go/bin
for tool in nfpm help2man gzip readelf; do
  command -v $tool >/dev/null || { echo "packages.sh: $tool is missing" >&2; exit 1; }
done

STAGE=$(mktemp -d "${TMPDIR:-/tmp}/packages.XXXXXX")
expressions=()
trap 'rm -rf "$STAGE"' EXIT
export STAGE VERSION ARCH MTIME
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
case $(readelf -h "$binary" | sed -n 's/ *Machine: *//p') in
*X86-64*) ARCH=amd64 ;;
*AArch64*) ARCH=arm64 ;;
*) echo "packages.sh: $binary is for an unknown machine" >&2; exit 1 ;;
esac
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
MTIME=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
for name in STAGE VERSION ARCH MTIME; do expressions+=(-e "s#\\\${$name}#${!name}#"); done
sed "${expressions[@]}" deploy/packages/nfpm.yaml >"$STAGE/nfpm.yaml"

cp "$binary" "$STAGE/oci-pull-through"
chmod 755 "$STAGE/oci-pull-through"
# The head of each unit describes the installation by hand.
for unit in service socket; do
  sed -e '/^#/,/^\[Unit\]/{/^\[Unit\]/!d}' -e 's#/usr/local/bin/#/usr/bin/#' "deploy/oci-pull-through.$unit" >"$STAGE/oci-pull-through.$unit"
done
help2man --no-info --name 'pull-through cache for OCI registries' "$STAGE/oci-pull-through" |
  gzip -9n >"$STAGE/oci-pull-through.1.gz"
cat >"$STAGE/changelog.yaml" <<END
- semver: $VERSION-1
  date: $MTIME
  packager: oci-pull-through maintainers <maintainers@oci-pull-through.invalid>
  deb: {urgency: medium, distributions: [stable]}
  changes: [{note: "Release $VERSION of the upstream project."}]
END

mkdir -p "$output"
for packager in deb rpm; do
  nfpm package --config "$STAGE/nfpm.yaml" --packager $packager --target "$output/"
done

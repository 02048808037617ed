#!/usr/bin/env bash
# Runs the scenarios with minimal container privileges: user ID 65534, no capabilities, no new privileges, a read-only root,
# docker's default seccomp profile, and only a loopback network. The driver is epoll, because the profile rejects io_uring.
#
#   scripts/privileges.sh [FILTER...]      all scenarios without a filter; `quick` for the core topics
#
# Needs root, podman and runc. The container's root is the machine's root, so that tools and tests keep their paths. Tests
# that need root print SKIPPED.
set -euo pipefail
cd "$(dirname "$0")/.."

filters=("$@")
if [ "${filters[*]}" = quick ]; then filters=(pull:: tags:: start_and_stop::); fi
for tool in podman runc jq; do
  command -v $tool >/dev/null || { echo "SKIP  least privilege: $tool is not installed"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "SKIP  least privilege: the containers need root"; exit 0; }

work=$(mktemp -d "${TMPDIR:-/tmp}/privileges.XXXXXX")
cleanup() {
  local mount
  for mount in $(awk -v work="$work/" 'index($2, work) == 1 {print $2}' /proc/mounts | sort -r); do umount -l "$mount"; done
  rm -rf "$work"
}
trap cleanup EXIT

cargo test --quiet --locked --no-run --test it
tests=$(cargo test --quiet --locked --no-run --test it --message-format json | jq -r 'select(.target.name == "it") | .executable // empty')
# The shipped profile without its additions equals docker's default.
jq '.syscalls |= map(select(.names | index("io_uring_setup") | not))' deploy/seccomp.json >"$work/seccomp.json"
files=$(ulimit -Hn)

podman --root "$work/root" --runroot "$work/run" --tmpdir "$work/tmp" --storage-driver vfs --events-backend none --cgroup-manager cgroupfs \
  run --runtime runc --rm --network none --read-only --read-only-tmpfs=false --user 65534:65534 --cap-drop all \
  --security-opt no-new-privileges --security-opt "seccomp=$work/seccomp.json" --ulimit "nofile=$files:$files" --ulimit nproc=16384:16384 \
  --tmpfs /tmp:rw,exec,mode=1777,notmpcopyup --workdir "$PWD" --env HOME=/tmp --env TEST_IO_DRIVER=epoll \
  --rootfs /:O "$tests" --show-output "${filters[@]}" >"$work/log" 2>&1 || {
  sed -n '/^failures:$/,$p' "$work/log" | grep -A 20 -E '^---- |SEED=|panicked at' | head -n 200
  tail -n 20 "$work/log"
  exit 1
}
grep '^SKIPPED' "$work/log" | sort -u || true
grep '^test result:' "$work/log"

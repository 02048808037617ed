#!/usr/bin/env bash
# io_uring and epoll in real environments: containers of docker and podman, with a profile that rejects io_uring like
# their defaults, and with deploy/seccomp.json; io_uring disabled by sysctl; a locked-memory limit that is too low. The
# script pulls through each cache. The log must name the driver, and the remedy if the driver is not io_uring.
#
#   scripts/drivers.sh target/release/oci-pull-through
#
# CHECK_STRICT=1 a skipped check fails.
# KEEP=1         keeps the working directory and prints its name.
#
# The containers hold only the binary and its libraries. The sysctl is not changed: the process sees another file in its
# place, and a filter rejects the calls like the kernel would.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:?usage: scripts/drivers.sh BINARY}")
profile=$here/../deploy/seccomp.json
strict=${CHECK_STRICT:-0} direct=0
registry=registry.test
work=$(mktemp -d "${TMPDIR:-/tmp}/drivers.XXXXXX")

# shellcheck source=scripts/clients/common.sh
. "$here/clients/common.sh"

# ---- Containers and caches ------------------------------------------------------------------------------------------

# The root of a container: the binary, its libraries, the configuration, a directory for the store.
make_root() {
  local library
  mkdir -p "$work/root/data" "$work/root/tmp" "$work/root/proc" "$work/root/dev" "$work/root/sys" "$work/root/etc"
  chmod 1777 "$work/root/data" "$work/root/tmp"
  cp "$binary" "$work/root/oci-pull-through"
  for library in $(ldd "$binary" 2>/dev/null | grep -oE '/[^ )]+' || true); do
    mkdir -p "$work/root/$(dirname "$library")"
    cp -L "$library" "$work/root/$library"
  done
  printf 'registries:\n  - name: %s\n    url: http://127.0.0.1:%s\n' "$registry" "$upstream_port" >"$work/root/config.yml"
}

# The shipped profile without its additions, which equals the default of docker 25, containerd 2 and
# later.
without_io_uring() {
  jq '.syscalls |= map(select(.names | index("io_uring_setup") | not))' "$profile" >"$work/without_io_uring.json"
}

settings=(LISTEN_ADDR=127.0.0.1:0 FS_ROOT=/data/store CONFIG_FILE=/config.yml STORAGE_BACKEND=fs CORES=2 ACCESS_LOG=off)

# run_docker NAME LOG ENV... -- FLAG...: runs the cache in the foreground until stopped.
run_docker() { run_container docker_ "$@"; }

run_podman() { run_container podman_ "$@"; }

run_container() {
  local runtime=$1 name=$2 log=$3 flags=() setting files image=(cache:test /oci-pull-through)
  shift 3
  for setting in "${settings[@]}"; do flags+=(--env "$setting"); done
  while [ "$1" != -- ]; do flags+=(--env "$1"); shift; done
  shift
  flags+=(--rm --network host --name "$name" "$@")
  if [ "$runtime" = podman_ ]; then
    # podman's default limit may exceed the limit of this user.
    files=$(ulimit -Hn)
    flags+=(--runtime runc --ulimit "nofile=$files:$files" --ulimit nproc=4096:4096)
    image=(--rootfs "$work/root" /oci-pull-through)
  fi
  "$runtime" run "${flags[@]}" "${image[@]}" serve >"$log" 2>&1
}

# serves NAME LOG COMMAND...: starts COMMAND, pulls through its listener, checks the log for each of
# `says`, and ends COMMAND.
serves() {
  local log=$2 pid text status=0
  shift 2
  : >"$log"
  "$@" &
  pid=$!
  eventually 30 listens_or_ended "$pid" "$log" || true
  if grep -q 'msg=listening ' "$log"; then
    cache=$(sed -n 's#.*msg=listening .*address=http://\([0-9.:]*\).*#\1#p' "$log" | head -n 1)
    skopeo_copies app $repository || status=1
  else
    echo "the cache does not listen"
    status=1
  fi
  end_container "$pid"
  for text in "${says[@]}"; do
    grep -qF -- "$text" "$log" || { echo "the log does not contain: $text"; status=1; }
  done
  [ "$(grep -c 'io driver selected' "$log")" = 1 ] || { echo "the log does not have exactly one line about the driver"; status=1; }
  [ $status = 0 ] || tail -n 8 "$log"
  return $status
}

# listens_or_ended PID LOG
listens_or_ended() { grep -q 'msg=listening ' "$2" || ! kill -0 "$1" 2>/dev/null; }

# Ends the cache in a container by its name, or the process itself.
end_container() {
  case $current in
    docker) docker_ stop --time 20 drivers >/dev/null 2>&1 || true ;;
    podman) podman_ stop --time 20 drivers >/dev/null 2>&1 || true ;;
    *) kill "$1" 2>/dev/null || true ;;
  esac
  wait "$1" || true
}

# exits_with_2 LOG COMMAND...: passes if COMMAND exits with 2 and its log contains each of `says`.
exits_with_2() {
  local log=$1 status=0 text
  shift
  "$@" || status=$?
  [ "$status" = 2 ] || { echo "exit code $status; expected 2"; tail -n 5 "$log"; return 1; }
  for text in "${says[@]}"; do
    grep -qF -- "$text" "$log" || { echo "the log does not contain: $text"; tail -n 5 "$log"; return 1; }
  done
}

# ---- The sysctl -----------------------------------------------------------------------------------------------------

# Rejects io_uring_setup with EPERM, like the kernel does if the sysctl disables io_uring, and
# executes its arguments.
reject_io_uring='
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(program)))
libc = ctypes.CDLL(None)
for call in [(38, 1, 0, 0, 0), (22, 2, ctypes.addressof(header), 0, 0)]:
    if libc.prctl(*(ctypes.c_ulong(word) for word in call)):
        sys.exit("prctl")
os.execvp(sys.argv[1], sys.argv[1:])'

# run_with_sysctl LOG DRIVER
run_with_sysctl() {
  echo 2 >"$work/io_uring_disabled"
  exec env "${settings[@]}" FS_ROOT="$work/store-sysctl" CONFIG_FILE="$work/root/config.yml" IO_DRIVER="$2" \
    unshare --mount sh -c 'mount --bind "$1" /proc/sys/kernel/io_uring_disabled && shift && exec "$@"' sh \
    "$work/io_uring_disabled" python3 -c "$reject_io_uring" "$binary" serve >"$1" 2>&1
}

sysctl_disables_io_uring() {
  current=process
  says=("driver=epoll" "sysctl kernel.io_uring_disabled")
  serves sysctl "$work/sysctl.log" run_with_sysctl "$work/sysctl.log" auto
  says=("sysctl kernel.io_uring_disabled" "IO_DRIVER=auto")
  exits_with_2 "$work/sysctl2.log" run_in_subshell run_with_sysctl "$work/sysctl2.log" io_uring
}

run_in_subshell() { ("$@"); }

# ---- The run --------------------------------------------------------------------------------------------------------

cure="--security-opt seccomp=deploy/seccomp.json"

# in_containers RUNTIME: io_uring rejected, allowed, required but rejected, and too little lockable
# memory.
in_containers() {
  local runtime=$1 run=run_$1 log=$work/$1
  current=$runtime
  says=("driver=epoll" "$cure")
  check "$runtime, io_uring rejected: epoll" \
    serves rejected "$log-1.log" "$run" drivers "$log-1.log" IO_DRIVER=auto -- --security-opt "seccomp=$work/without_io_uring.json"
  says=("IO_DRIVER=io_uring" "$cure")
  check "$runtime, io_uring rejected and required: exit 2" \
    exits_with_2 "$log-2.log" "$run" drivers "$log-2.log" IO_DRIVER=io_uring -- --security-opt "seccomp=$work/without_io_uring.json"
  [ "$io_uring" = 1 ] || { skip "$runtime, with deploy/seccomp.json: the kernel does not permit io_uring"; return; }
  says=("driver=io_uring")
  check "$runtime, with deploy/seccomp.json: io_uring" \
    serves allowed "$log-3.log" "$run" drivers "$log-3.log" IO_DRIVER=io_uring -- --security-opt "seccomp=$profile"
  says=("driver=epoll" "--ulimit memlock=-1")
  check "$runtime, another user, 64 KiB of lockable memory" \
    serves memlock "$log-4.log" "$run" drivers "$log-4.log" IO_DRIVER=auto FS_ROOT=/data/other -- --security-opt "seccomp=$profile" \
    --user 64124:64124 --ulimit memlock=65536:65536
}

PATH=$PATH:/usr/sbin:/sbin
needs docker-registry skopeo jq python3
[ "$(id -u)" = 0 ] || { skip "all: containers and mounts need root"; summary; }

build_images 4
serve_registry upstream
upstream_port=$port
skopeo copy --quiet --all --preserve-digests --dest-tls-verify=false "oci:$images/app:1" "docker://127.0.0.1:$upstream_port/$repository:1"
make_root
without_io_uring
io_uring=1
# Whether the kernel itself permits io_uring, outside of any container.
if ! env "${settings[@]}" FS_ROOT="$work/store-probe" CONFIG_FILE=/dev/null IO_DRIVER=io_uring timeout -s TERM 5 "$binary" serve >"$work/probe.log" 2>&1; then
  grep -q 'msg=listening ' "$work/probe.log" || io_uring=0
fi

client=docker
if ready; then
  tar -C "$work/root" -c . | docker_ import - cache:test >/dev/null
  in_containers docker
fi
client=podman
if usable podman runc conmon; then
  in_containers podman
  # Default settings. podman's default profile answers with ENOSYS.
  current=podman says=("driver=epoll" "$cure")
  check "podman, default settings" serves plain "$work/podman-5.log" run_podman drivers "$work/podman-5.log" IO_DRIVER=auto --
fi
if unshare --mount true 2>/dev/null && [ -e /proc/sys/kernel/io_uring_disabled ]; then
  check "io_uring disabled by the sysctl" sysctl_disables_io_uring
else
  skip "io_uring disabled by the sysctl: no such sysctl in the kernel, or no permission for a mount namespace"
fi

summary

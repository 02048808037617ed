#!/usr/bin/env bash
# Runs the TLS tests with KERNEL_TLS=auto in a virtual machine with Debian's kernel, which supports TLS in the kernel.
#
#   scripts/ktls.sh target/debug/oci-pull-through target/debug/deps/it-… [TEST...]
#
# KERNEL=package  linux-image-… to boot; by default the dependency of linux-image-cloud-amd64.
# KVM=0           emulates even if /dev/kvm exists. In a virtual machine, KVM may be slower, or hang.
# KEEP=1          keeps the working directory and prints its name.
#
# Needs qemu-system-x86_64, mkfs.ext4, xz, curl and openssl. Uses apt-get to download the kernel and busybox, which are
# unpacked but not installed. Does not change the machine. Emulation on two busy cores takes a quarter of an hour.
set -euo pipefail

binary=$(realpath "${1:?usage: scripts/ktls.sh BINARY IT_BINARY [TEST...]}")
tests=$(realpath "${2:?usage: scripts/ktls.sh BINARY IT_BINARY [TEST...]}")
shift 2
[ $# -gt 0 ] || set -- tls:: restart_protocols:: overload::protocols::
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/ktls.XXXXXX")
root=$work/root
cleanup() {
  if [ -n "${KEEP:-}" ]; then echo "working directory: $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT

kernel=${KERNEL:-$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')}
(cd "$work" && apt-get download -qq "$kernel" busybox-static 2>/dev/null)
mkdir -p "$work/kernel" "$work/busybox" "$root"/{bin,proc,sys,dev,tmp,etc,run,data,lib/modules}
dpkg -x "$work"/linux-image-*.deb "$work/kernel"
dpkg -x "$work"/busybox-static*.deb "$work/busybox"

# Copies a file and its libraries.
copy_with_libraries() {
  local library
  cp -L "$1" "$root/bin/${2:-$(basename "$1")}"
  for library in $(ldd "$1" 2>/dev/null | grep -oE '/[^ )]+' || true); do
    mkdir -p "$root/$(dirname "$library")"
    cp -nL "$library" "$root/$library"
  done
}
copy_with_libraries "$work/busybox/bin/busybox" busybox
copy_with_libraries "$binary" oci-pull-through
copy_with_libraries "$tests" it
for tool in curl openssl; do copy_with_libraries "$(command -v $tool)"; done
mkdir -p "$root/etc/ssl" "$root/usr/lib/ssl"
cp -L /etc/ssl/openssl.cnf "$root/usr/lib/ssl/"
printf 'root:x:0:0::/data:/bin/sh\n' >"$root/etc/passwd"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"

version=$(ls "$work/kernel/lib/modules")
for part in net/tls crypto arch/x86/crypto lib drivers/virtio drivers/block; do
  from=$work/kernel/lib/modules/$version/kernel/$part to=$root/lib/modules/$version/kernel/$part
  [ -d "$from" ] || continue
  mkdir -p "$(dirname "$to")"
  cp -r "$from" "$to"
done
find "$root/lib/modules" -name '*.xz' -exec xz -d {} +
cp "$work/kernel/lib/modules/$version"/modules.{builtin,order} "$root/lib/modules/$version/"

cat >"$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/data TMPDIR=/data TEST_BINARY=/bin/oci-pull-through TEST_KERNEL_TLS=auto
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
ip link set lo up
depmod
for module in virtio_pci virtio_blk tls gcm aesni-intel ghash-clmulni-intel chacha20poly1305 chacha-x86_64 poly1305-x86_64; do
  modprobe $module 2>/dev/null
done
mount -t ext4 /dev/vda /data || echo "the disk cannot be mounted"
ulimit -n 65536
echo "kernel $(uname -r)"
while read -r choice; do export "$choice"; done </choices
it --test-threads 2 --show-output $(cat /tests) 2>&1
echo "exit $?"
cat /proc/net/tls_stat
poweroff -f
END
chmod +x "$root/init"
printf '%s\n' "$*" >"$root/tests"
# The I/O driver and the random seed.
env | grep -E '^(TEST_IO_DRIVER|SEED)=' >"$root/choices" || true
(cd "$root" && find . | "$work/busybox/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd"
truncate -s 4G "$work/disk"
mkfs.ext4 -q "$work/disk"

accelerator=(-accel 'tcg,thread=multi')
if [ -w /dev/kvm ] && [ "${KVM:-1}" = 1 ]; then accelerator=(-accel kvm); fi
timeout "${TIMEOUT:-1800}" qemu-system-x86_64 "${accelerator[@]}" -cpu max -smp 2 -m 4096 -nic none -nographic -no-reboot \
  -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initrd" -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" \
  -append "console=ttyS0 quiet panic=-1 mitigations=off" </dev/null | tee "$work/console"

grep -q '^exit 0' "$work/console" || { echo "FAILED: the tests failed or did not end"; exit 1; }
# Successful tests do not suffice, because tests end early if the kernel lacks TLS.
awk '$1 == "TlsTxSw" {sessions = $2} END {print sessions + 0, "sessions with encryption in the kernel"; exit sessions == 0}' "$work/console"

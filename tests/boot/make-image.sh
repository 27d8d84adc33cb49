#!/bin/bash
# SPDX-License-Identifier: MIT
#
# usage: tests/boot/make-image.sh FOLDER
#
# Makes a small bootable Debian in FOLDER, once: disk.img (a raw ext4 root file system, mostly
# holes), vmlinuz and initrd. The release and the place to load it from are those of this machine.
# Needs root. Made again when this script or tests/boot/guest-init changes.
#
# Boot time is what counts under emulation: there is no systemd, no boot loader, and the initrd
# holds only the modules that lead to the root file system. guest-init is init.
set -euo pipefail

[ $# -eq 1 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
PATH=$PATH:/usr/sbin:/sbin

fail()
{
	echo "make-image: $*" >&2
	exit 1
}

# Somebody else may be making it just now.
exec 9>"$out/lock"
flock 9
recipe=$(cat "$here/make-image.sh" "$here/guest-init" | sha256sum | cut -c 1-16)
if [ -f "$out/disk.img" ] && [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]; then
	exit 0
fi

[ "$(id -u)" -eq 0 ] || fail 'making a Debian image takes root'
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || fail 'only for Debian on amd64'
for tool in debootstrap mkfs.ext4 cpio xz apt-get; do
	command -v $tool >/dev/null || fail "'$tool' is missing; type 'make deps'"
done

work=$(mktemp -d "$out/making.XXXXXX")
# debootstrap mounts proc and sysfs below its target while it works.
clean_up()
{
	local point
	while read -r point; do
		umount "$point" || umount -l "$point" || true
	done < <(awk -v below="$work/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
	rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

kernel_package()
{
	apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

kernel=$(kernel_package)
if [ -z "$kernel" ]; then
	DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null
	kernel=$(kernel_package)
	[ -n "$kernel" ] || fail 'no package linux-image-cloud-amd64 to be had'
fi

# Where this machine's own packages come from: address and release.
read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(RELEASE) $(ORIGIN)' \
	'Created-By: Packages' | awk '$4 == "Debian" && $3 !~ /[-\/]/ { print $1, $2; exit }') ||
	fail 'apt knows no Debian archive'
proxy=$(apt-config shell proxy Acquire::http::Proxy) && eval "$proxy"
[ -z "${proxy-}" ] || export http_proxy="${http_proxy-$proxy}"

echo "make-image: Debian '$suite' into '$out'"
root=$work/root
if ! debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$out/debootstrap.log" 2>&1; then
	tail -n 5 "$out/debootstrap.log" >&2
	fail "debootstrap failed; see '$out/debootstrap.log'"
fi
install -m 755 "$here/guest-init" "$root/sbin/goldfs-guest-init"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
echo goldfs-guest >"$root/etc/hostname"
echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
: >"$root/etc/machine-id"

# The kernel is unpacked, not installed: this machine keeps its own.
mkdir "$work/deb" "$work/kernel" "$work/initrd" "$work/busybox"
(cd "$work/deb" && apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download \
	"$kernel" busybox-static)
dpkg-deb -x "$work"/deb/linux-image*.deb "$work/kernel"
dpkg-deb -x "$work"/deb/busybox-static*.deb "$work/busybox"

modules=$(echo "$work"/kernel/lib/modules/* "$work"/kernel/usr/lib/modules/* | tr ' ' '\n' |
	while read -r dir; do [ ! -d "$dir" ] || echo "$dir"; done | head -n 1)
mkdir -p "$work/initrd/bin" "$work/initrd/modules" "$work/initrd/root" "$work/initrd/dev" \
	"$work/initrd/proc"
cp "$(find "$work/busybox" -path "*/bin/busybox" -type f)" "$work/initrd/bin/busybox"

# Copies a module and, before it, what it depends on; the order of loading goes to /modules/order.
# Names of modules know no difference between "-" and "_". What is built in is not found: fine.
add_module()
{
	local name=$1 file plain needs one
	plain=$work/initrd/modules/${name//-/_}.ko
	[ ! -e "$plain" ] || return 0
	file=$(find "$modules" -name "${name//[-_]/[-_]}.ko*" | head -n 1)
	[ -n "$file" ] || return 0
	case $file in
	*.xz) xz -dc "$file" >"$plain" ;;
	*.zst) zstd -qdc "$file" >"$plain" ;;
	*) cp "$file" "$plain" ;;
	esac
	needs=$(tr '\0' '\n' <"$plain" | LC_ALL=C sed -n 's/^depends=//p; s/^softdep=pre: //p' |
		tr ', ' '\n\n')
	for one in $needs; do
		add_module "$one"
	done
	echo "${name//-/_}.ko" >>"$work/initrd/modules/order"
}
: >"$work/initrd/modules/order"
for module in virtio_pci virtio_blk crc32c_generic crc32c_cryptoapi crc32c ext4; do
	add_module $module
done

cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
while read -r module; do
	insmod "/modules/$module" || echo "initrd: $module does not load"
done </modules/order
tries=0
until [ -b /dev/vda ] || [ $tries -eq 100 ]; do
	tries=$((tries + 1))
	sleep 0.1
done
umount /proc
mount -t ext4 /dev/vda /root && mount --move /dev /root/dev &&
	exec switch_root /root /sbin/goldfs-guest-init
echo 'initrd: no root file system'
poweroff -f
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio -o -H newc --quiet) | gzip -1 >"$work/initrd.gz"

truncate -s 1G "$work/disk.img"
mkfs.ext4 -q -F -L goldfs-guest -d "$root" "$work/disk.img"
e2fsck -fn "$work/disk.img" >"$work/fsck" 2>&1 || { cat "$work/fsck" >&2; fail 'the image is not clean'; }
fallocate --dig-holes "$work/disk.img" || true

rm -f "$out/recipe"
(. "$root/etc/os-release" && echo "${ID:-debian}-${VERSION_ID:-$suite}") >"$out/name"
cp "$(find "$work/kernel/boot" -name 'vmlinuz-*' | head -n 1)" "$out/vmlinuz"
mv "$work/initrd.gz" "$out/initrd"
mv "$work/disk.img" "$out/disk.img"
chmod 644 "$out/disk.img" "$out/vmlinuz" "$out/initrd"
echo "$recipe" >"$out/recipe"

# SPDX-License-Identifier: MIT
#
# What the boot tests share: a mount with the Debian image in it, guests, and a look into their
# disks. Sourced by bash with $1 = the goldfs binary; everything is made in a folder of its own and
# taken away again, the guests and the daemon of this test included.
# shellcheck shell=bash
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
goldfs=$(realpath "$1")
cache=${BOOT_CACHE:-$here/../../build/boot-cache}
# The guests run as nobody in particular: an id that owns its disk and nothing else.
guest_id=64055

skip()
{
	echo "$*"
	exit 77
}

fail()
{
	echo "FAILED: $*"
	exit 1
}

[ "$(id -u)" -eq 0 ] || skip 'needs root'
[ -c /dev/fuse ] || skip 'needs /dev/fuse'
for tool in qemu-system-x86_64 debugfs e2fsck setpriv; do
	command -v $tool >/dev/null || skip "needs $tool"
done
"$here/make-image.sh" "$cache" || skip 'the Debian image cannot be made here (above)'
cache=$(realpath "$cache")

pids=() # of guests in the background, each the leader of a process group (set -m)
mnt=''
clean_up()
{
	local pid
	for pid in ${pids[@]+"${pids[@]}"}; do
		kill -- "-$pid" 2>/dev/null || true
	done
	wait
	if [ -n "$mnt" ] && mountpoint -q "$mnt"; then
		"$goldfs" umount "$mnt" || umount -l "$mnt" || true
	fi
	rm -rf --one-file-system "$dir"
}

as_guest()
{
	setpriv --reuid $guest_id --regid $guest_id --clear-groups "$@"
}

# The guests must be able to reach the folder; one below somebody's home may be closed to them.
dir=$(mktemp -d)
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$dir"
if ! as_guest test -x "$dir"; then
	rmdir "$dir"
	dir=$(mktemp -d /var/tmp/goldfs-boot.XXXXXX)
	chmod 755 "$dir"
fi
logs=${TEST_LOGS:-$dir}
mkdir "$dir/images" "$dir/mnt"
cp "$cache/vmlinuz" "$cache/initrd" "$dir/"
cp --sparse=always "$cache/disk.img" "$dir/images/debian.img"
golden_sum=$(sha256sum <"$dir/images/debian.img")

mount_goldfs()
{
	mnt=$dir/mnt
	"$goldfs" -o "store=$dir/store" "$dir/images" "$mnt" || fail 'mount'
	mountpoint -q "$mnt" || fail "'$mnt' is not a mount point"
}

umount_goldfs()
{
	"$goldfs" umount "$mnt" || fail 'umount'
	! mountpoint -q "$mnt" || fail "'$mnt' is still mounted"
}

# guest NAME DISK TOKEN DRIVE-OPTIONS: runs one guest to its end. Its console goes to a log.
guest()
{
	local log=$logs/boot-console-$1.log status=0
	# The command line of a guest must not depend on what this machine can do: emulation always.
	# On a busy one its kernel finds that the emulated timer ticks too late, and would panic.
	as_guest timeout --foreground 240 qemu-system-x86_64 -accel tcg -m 256 -display none -no-reboot \
		-nodefaults -serial stdio -kernel "$dir/vmlinuz" -initrd "$dir/initrd" \
		-append "console=ttyS0 quiet panic=-1 no_timer_check goldfs.token=$3" \
		-drive "file=$2,format=raw,if=virtio,$4" </dev/null >"$log" 2>&1 || status=$?
	tr -d '\r' <"$log" | sed "s/^/    $1: /"
	[ "$status" -eq 0 ] || { echo "guest $1: QEMU ended with status $status"; return 1; }
	grep -q "^guest: DONE $3 " "$log" || { echo "guest $1: did not finish"; return 1; }
	! grep -qE 'I/O error|EXT4-fs error|Buffer I/O|blk_update_request|nobarrier' "$log" ||
		{ echo "guest $1: saw an error of its disk"; return 1; }
}

# The first $3 bytes of file $2 of the guest with token $1; see guest-init.
content()
{
	seq -f "$1 $2 %.0f" 1 2000000 2>/dev/null | head -c "$3" || true
}

# check_disk DISK TOKEN: the file system is clean and holds what the guest was told to write.
check_disk()
{
	local out=$dir/out n
	e2fsck -fn "$1" >"$dir/fsck" 2>&1 || { cat "$dir/fsck"; fail "e2fsck of '$1'"; }
	rm -rf "$out" && mkdir "$out"
	debugfs -R "rdump /srv/goldfs $out" "$1" >/dev/null 2>&1
	cd "$out/goldfs" || fail "nothing was written to '$1'"
	sha256sum --quiet -c SUMS || fail "sums of '$1'"
	for n in 5 6; do
		cmp "direct-$n" <(content "$2" $n 2097152) || fail "direct-$n of '$1'"
	done
	for n in $(seq 10 60); do
		cmp "small-$n" <(content "$2" "$n" $((n * 137))) || fail "small-$n of '$1'"
	done
	cmp large-1 <(content "$2" 1 409600; content "$2" 7 8192
		content "$2" 1 3000000 | tail -c +$((409600 + 8192 + 1))) || fail "large-1 of '$1'"
	cmp large-2 <(content "$2" 2 3000000; content "$2" 8 70000) || fail "large-2 of '$1'"
	cmp large-3 <(content "$2" 3 1000001) || fail "large-3 of '$1'"
	cmp large-4 <(content "$2" 4 3000000) || fail "large-4 of '$1'"
	cd "$dir"
	echo "$1: clean, and all files of guest $2 are right"
}

check_golden()
{
	[ "$(sha256sum <"$dir/images/debian.img")" = "$golden_sum" ] || fail 'the golden image changed'
	[ "$(sha256sum <"$mnt/golden/debian.img")" = "$golden_sum" ] ||
		fail 'the golden image reads differently through the mount'
}

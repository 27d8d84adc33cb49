#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 300 s
#
# File systems on clones, through loop devices: mkfs, a source tree unpacked in them, fstrim, and
# a clean check at the end. What the trim gave back, the clone no longer costs.
. "$(dirname "$0")/work_lib.sh"
[ "$(id -u)" -eq 0 ] || skip 'needs root'
need mkfs.ext4 e2fsck mkfs.xfs xfs_repair fstrim losetup tar

# A tree as sources of a kernel are: many folders, small files of text, links between them.
make_tree()
{
	local top=$1 sub part n
	for sub in arch block crypto drivers fs kernel lib mm net sound; do
		for part in $(seq 1 6); do
			mkdir -p "$top/$sub/part$part/include"
			for n in $(seq 1 16); do
				seq -f "static int ${sub}_${part}_${n}_%.0f(struct device *dev);" \
					$((n * n * 4)) >"$top/$sub/part$part/file$n.c"
			done
			ln -s ../file1.c "$top/$sub/part$part/include/file1.h"
		done
	done
}

# try NAME FILE-SYSTEM LOOP-OPTION
try()
{
	local disk=$mnt/$1.img fs=$2 before after point=$work/fs

	truncate -s 512M "$disk"
	attach "$disk" "$3"
	if [ "$fs" = ext4 ]; then
		mkfs.ext4 -q "$loop_device"
	else
		mkfs.xfs -q "$loop_device"
	fi
	mkdir -p "$point"
	if ! mount -t "$fs" "$loop_device" "$point" 2>"$work/err"; then
		grep -qx "[^a-z]*$fs" /proc/filesystems || [ "$fs" = ext4 ] ||
			{ echo "$fs: this kernel cannot mount it; mkfs and check alone"; no_mount=1; }
		[ -n "${no_mount-}" ] || { cat "$work/err"; fail "mount of $fs"; }
	else
		tar -xf "$work/tree.tar" -C "$point"
		diff -r --no-dereference "$work/tree" "$point/tree" || fail "$fs: the tree differs"
		dd if=/dev/urandom of="$point/big" bs=1M count=64 status=none
		sync -f "$point"
		"$goldfs" settle "$mnt"
		before=$(figure "$disk" unique_bytes)
		rm -r "$point/big" "$point/tree/drivers" "$point/tree/fs"
		# What a file system's own journal may still bring back is not trimmed.
		sync -f "$point"
		fstrim "$point" || fail "$fs: fstrim"
		umount "$point"
		"$goldfs" settle "$mnt"
		after=$(figure "$disk" unique_bytes)
		echo "$fs $3: $before bytes before the trim, $after after"
		[ "$after" -lt $((before - 64 * 1048576)) ] || fail "$fs: the trim gave nothing back"
	fi
	if [ "$fs" = ext4 ]; then
		e2fsck -fn "$loop_device" || fail 'e2fsck'
	else
		xfs_repair -n "$loop_device" 2>&1 || fail 'xfs_repair'
	fi
	detach "$loop_device"
}

make_tree "$work/tree"
tar -cf "$work/tree.tar" -C "$work" tree
golden unused.img 8
mount_goldfs
try ext4 ext4 --direct-io=off
try ext4-direct ext4 --direct-io=on
try xfs xfs --direct-io=off

# A clone of a disk with a file system in it, then the source is thrown away.
cp "$mnt/ext4.img" "$mnt/copy.img"
rm "$mnt/ext4.img"
attach "$mnt/copy.img"
mount -t ext4 "$loop_device" "$work/fs"
diff -r --no-dereference "$work/tree/mm" "$work/fs/tree/mm" || fail 'the copy differs'
cp -r "$work/fs/tree/mm" "$work/fs/tree/mm2"
umount "$work/fs"
e2fsck -fn "$loop_device" || fail 'e2fsck of the copy'
detach "$loop_device"
umount_goldfs
mount_goldfs
e2fsck -fn "$mnt/copy.img" || fail 'e2fsck of the copy after a remount'
umount_goldfs

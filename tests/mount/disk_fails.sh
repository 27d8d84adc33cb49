#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The file system of the store meets an error and turns itself read-only: the mount says so and goes on
# reading, nothing synced is lost, and the next mount is as good as new. (What single failing calls do is
# tests/crash/test_faults.c's.)

. "$(dirname "$0")/lib.sh"

setup "$1"
command -v mkfs.ext4 >/dev/null || skip "needs mkfs.ext4"
make_image base.img $((16 << 20))
truncate -s 192M "$work/disk"
mkfs.ext4 -q -F "$work/disk" || skip "mkfs.ext4 does not work"
mkdir "$work/small"
mount -o loop,errors=remount-ro "$work/disk" "$work/small" 2>/dev/null || skip "needs a loop device"
extra_mounts+=("$work/small")
trigger=/sys/fs/ext4/$(basename "$(findmnt -no SOURCE "$work/small")")/trigger_fs_error
[ -w "$trigger" ] || skip "needs the trigger_fs_error of ext4"
store=$work/small/store
mkdir "$store"
"$goldfs" mount -o "store=$store,log=$work/log" "$images" "$mnt" || fail "cannot mount"
cp "$mnt/golden/base.img" "$mnt/a.img" && cp "$mnt/golden/base.img" "$mnt/b.img" || fail cp
head -c 3M /dev/urandom >"$work/new"
dd if="$work/new" of="$mnt/a.img" bs=1M conv=notrunc,fsync 2>/dev/null || fail write
dd if="$work/new" of="$mnt/a.img" bs=4k count=300 seek=2000 conv=notrunc,fsync 2>/dev/null || fail write
cp "$mnt/a.img" "$work/want" || fail "cp out"

echo "a test" >"$trigger" || fail "cannot make ext4 fail"
# It takes as long as it takes until the store has to write there.
for _ in $(seq 100); do
	dd if="$work/new" of="$mnt/b.img" bs=1M conv=notrunc,fsync 2>"$work/dd" || break
	sleep 0.1
done
grep -q 'Input/output error' "$work/dd" || fail "writing goes on without a disk: $(cat "$work/dd")"
"$goldfs" stat -n -o state,reason "$mnt/a.img" >"$work/state" || fail stat
grep -q '^read-only .' "$work/state" || fail "stat says $(cat "$work/state")"
[ "$("$goldfs" df -n -o state "$mnt")" = read-only ] || fail "df says $("$goldfs" df -n -o state "$mnt")"
cmp "$mnt/a.img" "$work/want" || fail "reading what is there"
ls "$mnt" >/dev/null || fail ls
touch "$mnt/new" 2>/dev/null && fail "a new file on a failed disk"
grep -q 'read-only now, look at the disk below, then mount again' "$work/log" || fail "no word in the log"
"$goldfs" umount "$mnt" 2>/dev/null
umount "$work/small" || fail "umount"
e2fsck -fy "$work/disk" >/dev/null 2>&1
mount -o loop "$work/disk" "$work/small" || fail "cannot mount what was mended"
"$goldfs" mount -o "store=$store,log=$work/log" "$images" "$mnt" || fail "cannot mount again"
cmp "$mnt/a.img" "$work/want" || fail "what was synced is not there"
# On a busy machine the image's copy may not have been done when the disk failed.
for _ in $(seq 100); do
	state=$("$goldfs" stat -n -o state "$mnt/a.img")
	[ "$state" = copying ] || break
	sleep 0.1
done
[ "$state" = ok ] || fail "not as good as new: $state"
dd if="$work/new" of="$mnt/b.img" bs=1M conv=notrunc,fsync 2>/dev/null || fail "writing again"
umount_goldfs

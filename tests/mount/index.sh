#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The content index of a golden image is made in the background after its first clone, survives, is
# made anew when it is missing or damaged, is seen as a job while that takes long, and goes with the
# last clone.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"

# await CONDITION…: until the command succeeds.
await()
{
	local i
	for i in $(seq 300); do
		"$@" && return
		sleep 0.1
	done
	fail "it never came to this: $*"
}

# flip FILE OFFSET: one bit.
flip()
{
	python3 - "$1" "$2" <<-'END' || fail "cannot flip a bit of $1"
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		at = int(sys.argv[2])
		byte = os.pread(fd, 1, at)[0]
		os.pwrite(fd, bytes([byte ^ 16]), at)
	END
}

files()
{
	(cd "$store/index" && echo *)
}

# check_says PATTERN: a note, which is no error.
check_says()
{
	"$goldfs" check "$store" >check.out 2>&1 || fail "check failed: $(cat check.out)"
	grep -q "$1" check.out || fail "check does not say \"$1\": $(cat check.out)"
}

make_image one.img $((8 << 20))
make_image two.img $((8 << 20))

mount_goldfs
cp "$mnt/golden/one.img" "$mnt/a" || fail "no clone"
await test -e "$store/index/1"
cp "$mnt/golden/two.img" "$mnt/b" || fail "no clone"
await test -e "$store/index/2"
"$goldfs" clone "$mnt/a" "$mnt/c" || fail "no clone"
[ "$(files)" = "1 2" ] || fail "files of indexes: $(files)"
# 2048 blocks, one header, and what is rounded up.
[ "$(stat -c %s "$store/index/1")" -le $((2048 * 16 + 2 * 4096)) ] ||
	fail "an index of $(stat -c %s "$store/index/1") bytes"
[ "$(stat -c %a "$store/index/1")" = 600 ] || fail "others may read it"
umount_goldfs
"$goldfs" check "$store" >check.out 2>&1 || fail "check: $(cat check.out)"
! grep -q "content index" check.out || fail "check of an intact store: $(cat check.out)"
cp "$store/index/1" good

# It is used as it is; others are made anew.
inode=$(stat -c %i "$store/index/1")
rm "$store/index/2"
mount_goldfs
await test -e "$store/index/2"
[ "$(stat -c %i "$store/index/1")" = "$inode" ] || fail "an index was made anew without a reason"
umount_goldfs
for at in 20 64 "$(($(stat -c %s good) - 3))"; do
	flip "$store/index/1" "$at"
	check_says "content index of golden image .*one.img.* damaged"
	mount_goldfs
	await cmp -s "$store/index/1" good
	umount_goldfs
done
# The other image's, and what a crash leaves.
cp "$store/index/2" "$store/index/1"
check_says "content index of golden image"
touch "$store/index/1.tmp" "$store/index/1.runs.tmp" "$store/index/77"
check_says "nothing refers to this file"
"$goldfs" check --repair "$store" >check.out 2>&1 || fail "repair: $(cat check.out)"
[ "$(files)" = 2 ] || fail "repair left $(files)"
touch "$store/index/1.tmp" "$store/index/1.runs.tmp" "$store/index/77"
mount_goldfs
await cmp -s "$store/index/1" good
await test "$(files)" = "1 2"

# It goes with the last clone, also when the image has gone before.
rm "$images/one.img" "$mnt/a"
"$goldfs" settle "$mnt" || fail "cannot settle"
[ "$(files)" = "1 2" ] || fail "files of indexes: $(files)"
rm "$mnt/c"
"$goldfs" settle "$mnt" || fail "cannot settle"
await test ! -e "$store/index/1"
umount_goldfs
[ "$(files)" = 2 ] || fail "files of indexes: $(files)"

# Without dedup there is none.
rm "$store/index/2"
mount_goldfs dedup=off
cp "$mnt/golden/two.img" "$mnt/d" || fail "no clone"
sleep 0.5
umount_goldfs
[ "$(files)" = '*' ] || fail "an index without dedup: $(files)"

# What takes long is a job.
make_image large.img $((384 << 20))
mount_goldfs dedup=golden
cp "$mnt/golden/large.img" "$mnt/e" || fail "no clone"
await test -e "$store/index/3"
umount_goldfs

# stop_builder [NUMBER]: holds the process that makes the index, if it is met.
stop_builder()
{
	local index=$store/index/${1:-3}
	local worker pid i
	worker=$(worker_pid)
	for i in $(seq 500); do
		pid=$(pgrep -P "$worker" -x goldfs-pin) && kill -STOP $pid 2>/dev/null && break
		[ ! -e "$index" ] || return 1
	done
	[ -n "$pid" ] && [ ! -e "$index" ]
}

no_job_runs()
{
	"$goldfs" job list -j "$mnt" | jq -e '[.jobs[] | select(.state == "running")] == []' >/dev/null
}

has_job()
{
	"$goldfs" job list -j "$mnt" | jq -e '.jobs[] | select(.kind == "index" and
		.state == "running" and .target == "golden/large.img")' >job.json
}

for try in 1 2 3 4 5; do
	rm -f "$store/index/3"
	mount_goldfs dedup=golden
	stop_builder && break
	await test -e "$store/index/3"
	umount_goldfs
	[ $try -lt 5 ] || exit 0 # too fast to be seen
done
await has_job
id=$(jq .id job.json)
"$goldfs" job cancel "$id" "$mnt" || fail "cannot cancel"
await no_job_runs
"$goldfs" job list -j "$mnt" | jq -e ".jobs[] | select(.id == $id) | .state == \"cancelled\"" \
	>/dev/null || fail "it was not cancelled: $("$goldfs" job list -j "$mnt")"
[ "$(files)" = 2 ] || fail "a cancelled build left $(files)"
umount_goldfs
mount_goldfs dedup=golden
await test -e "$store/index/3"
umount_goldfs

# Who settles waits for the index of an image that is about to be of use, unless he is told not to.
rm "$store/index"/*
mount_goldfs
rm -f "$mnt"/[a-e]
cp "$images/large.img" "$mnt/copy.img" || fail "cannot copy"
timeout 60 "$goldfs" settle "$mnt" >settle.log 2>&1 &
settling=$!
stop_builder 4 || exit 0
sleep 0.3
kill -0 $settling || fail "it does not wait: $(cat settle.log)"
id=$("$goldfs" job list -j "$mnt" | jq '.jobs[] | select(.kind == "settle" and .state == "running") | .id')
"$goldfs" job cancel "$id" "$mnt" || fail "cannot cancel settling"
wait $settling && fail "settling was cancelled, and does not say so"
grep -q 'was cancelled' settle.log || fail "settling was cancelled, and says: $(cat settle.log)"
timeout 30 "$goldfs" umount "$mnt" || fail "cannot unmount"
mount_goldfs
"$goldfs" settle "$mnt" || fail "cannot settle"
cmp "$images/large.img" "$mnt/copy.img" || fail "other bytes"
umount_goldfs
# That the disk is nearly full is nobody's fault here.
! grep -v "% full" "$store/log" | grep -i "error\|warning\|EPERM" || fail "the log complains"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The last clone of an image goes while the daemon copies the image into the store, or reads it for its
# sums: whatever the moment, nothing is left of it in the store, and the next clone is right. And the
# process that does so is killed by somebody else: that is said, and nobody waits for it.
. "$(dirname "$0")/work_lib.sh"
[ "$(id -u)" = 0 ] || skip "needs root to mount a file system"

golden base.img 24
# On another file system: a pin cannot be a link.
mkdir other
mount -t tmpfs -o size=64M,mode=755 tmpfs other || skip "no tmpfs"
extra_mounts+=("$work/other")
cp "$images/base.img" other/base.img

left()
{
	find "$store/golden" "$store/index" -type f | sed "s|^$store/||"
}
# come_and_go IMAGES ROUNDS
come_and_go()
{
	local images=$1 round
	mount_goldfs
	for round in $(seq "$2"); do
		cp "$mnt/golden/base.img" "$mnt/one.img" || fail "clone"
		sleep "0.$(printf %03d $((RANDOM % 250)))"
		cmp -n 65536 "$images/base.img" "$mnt/one.img" || fail "round $round: other bytes"
		rm "$mnt/one.img"
		"$goldfs" settle "$mnt"
		[ -n "$(left)" ] || continue
		# The kernel says in its own time that a file is forgotten.
		late=$((late + 1))
		sleep 0.2
		"$goldfs" settle "$mnt"
		[ -z "$(left)" ] || fail "round $round: left over: $(left)"
	done
	cp "$mnt/golden/base.img" "$mnt/one.img"
	cmp "$images/base.img" "$mnt/one.img" || fail "the last clone has other bytes"
	umount_goldfs
	"$goldfs" check "$store" >check.log || fail "$(cat check.log)"
}
late=0
come_and_go "$work/other" 12
come_and_go "$images" 8
[ $late -le 2 ] || fail "something was left after the first settle $late times"

killed_by_another()
{
	local round child worker
	head -c 96M /dev/urandom >"$images/large.img"
	mount_goldfs
	worker=$(worker_pid)
	for round in $(seq 10); do
		cp "$mnt/golden/large.img" "$mnt/$round.img"
		for _ in $(seq 50); do
			child=$(cat /proc/"$worker"/task/*/children)
			child=${child%% *}
			# Not one that has ended and is about to be noticed.
			grep -q 'State:.[RSD]' "/proc/${child:-none}/status" 2>/dev/null || continue
			kill -9 "$child" 2>/dev/null && break
		done
		timeout 60 "$goldfs" settle "$mnt" || fail "settling waits for a process that was killed"
		rm "$mnt/$round.img"
		"$goldfs" settle "$mnt"
		[ "$(killed)" -eq 0 ] || break
	done
	[ $round -lt 10 ] || echo "nobody was met"
	timeout 60 "$goldfs" umount "$mnt" || fail "unmounting waits for a process that was killed"
	[ "$(killed)" -le $round ] || fail "it is started again and again"
	"$goldfs" check "$store" >check.log || fail "$(cat check.log)"
}
killed()
{
	grep -c 'that reads golden image .* was killed by signal 9' "$store/log" || true
}
killed_by_another

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The last clone of an image goes while the daemon copies the image into the store, or reads it for its
# sums: whatever the moment, nothing is left of it in the store, and the next clone is right.
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
		sleep 0.2 # the kernel says in its own time that a file is forgotten
		"$goldfs" settle "$mnt"
		[ -z "$(left)" ] || fail "round $round: left over: $(left)"
	done
	cp "$mnt/golden/base.img" "$mnt/one.img"
	cmp "$images/base.img" "$mnt/one.img" || fail "the last clone has other bytes"
	umount_goldfs
	"$goldfs" check "$store" >check.log || fail "$(cat check.log)"
}
come_and_go "$work/other" 12
come_and_go "$images" 8

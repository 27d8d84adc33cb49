#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 120 s
#
# A clone of a clone of a clone, whose ancestors were removed, comes to stand on its image with one layer
# of its own, by itself, and shows what it showed.
. "$(dirname "$0")/work_lib.sh"
need sha256sum
depth=${DEPTH:-20}

layers()
{
	find "$store/layer" -name '*.data' | wc -l
}

golden base.img 16
mount_goldfs journal-size=16M
"$goldfs" clone "$mnt/golden/base.img" "$mnt/c0.img"
for n in $(seq "$depth"); do
	dd if=/dev/urandom of="$mnt/c$((n - 1)).img" bs=64K count=2 seek=$((n * 3)) conv=notrunc status=none
	"$goldfs" clone "$mnt/c$((n - 1)).img" "$mnt/c$n.img"
	rm "$mnt/c$((n - 1)).img"
done
dd if=/dev/urandom of="$mnt/c$depth.img" bs=4K count=2 seek=7 conv=notrunc,fsync status=none
sha256sum <"$mnt/c$depth.img" >want
for _ in $(seq 600); do
	"$goldfs" settle "$mnt"
	[ "$(layers)" -gt 1 ] || break
	sleep 0.1
done
[ "$(layers)" = 1 ] || fail "$(layers) layers are left of $depth"
"$goldfs" job list -n -o kind "$mnt" | grep -q fold || fail "no job says so: $("$goldfs" job list "$mnt")"
sha256sum <"$mnt/c$depth.img" | cmp - want || fail "a folded chain shows something else"
umount_goldfs
"$goldfs" check "$store" || fail "check"
mount_goldfs
sha256sum <"$mnt/c$depth.img" | cmp - want || fail "after a mount a folded chain shows something else"

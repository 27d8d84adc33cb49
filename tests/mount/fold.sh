#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 120 s
#
# A clone of a clone of a clone, whose ancestors were removed, comes to stand on its image with one layer
# of its own, by itself, and shows what it showed. So does what snapshots leave that were deleted, and the
# others stay.
. "$(dirname "$0")/work_lib.sh"
need sha256sum
depth=${DEPTH:-20}

layers()
{
	find "$store/layer" -name '*.data' | wc -l
}

# await_layers COUNT
await_layers()
{
	for _ in $(seq 600); do
		"$goldfs" settle "$mnt"
		[ "$(layers)" -gt "$1" ] || break
		sleep 0.1
	done
	[ "$(layers)" = "$1" ] || fail "$(layers) layers are left, not $1"
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
await_layers 1
"$goldfs" job list -n -o kind "$mnt" | grep -q fold || fail "no job says so: $("$goldfs" job list "$mnt")"
sha256sum <"$mnt/c$depth.img" | cmp - want || fail "a folded chain shows something else"
umount_goldfs
"$goldfs" check "$store" || fail "check"
mount_goldfs
sha256sum <"$mnt/c$depth.img" | cmp - want || fail "after a mount a folded chain shows something else"

# ---- snapshots ----
disk=$mnt/c$depth.img snaps=$mnt/.snapshots/c$depth.img
for n in $(seq 8); do
	"$goldfs" snapshot create "$disk" "s$n" || fail "snapshot create"
	dd if=/dev/urandom of="$disk" bs=64K count=2 seek=$((n * 3)) conv=notrunc,fsync status=none
done
"$goldfs" settle "$mnt"
[ "$(layers)" = 9 ] || fail "$(layers) layers of 8 snapshots"
sha256sum "$disk" "$snaps"/s[1458] >want
for n in 2 3 6 7; do
	"$goldfs" snapshot delete "$disk" "s$n" || fail "snapshot delete"
done
await_layers 5
sha256sum -c --quiet want || fail "between snapshots a folded chain shows something else"
"$goldfs" snapshot rollback "$disk" s4 || fail "rollback"
cmp "$disk" "$snaps/s4" || fail "back it shows something else"
grep /s want | sha256sum -c --quiet - || fail "snapshots show something else after going back"
umount_goldfs
"$goldfs" check "$store" || fail "check with snapshots"

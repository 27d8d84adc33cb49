#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 540 s
#
# Two guests at once on two clones of one image, one of them made by cp, with cache modes and kinds
# of asynchronous I/O that people use; test_snapshots.sh has the remaining one. Each disk is clean
# afterwards and holds what its own guest wrote, after unmount and mount as well; the golden image is
# what it was, and so is a clone that nobody touched.
. "$(dirname "$0")/lib.sh"

ways=(
	cache=none,aio=io_uring,discard=unmap
	cache=writeback,aio=threads,discard=unmap,detect-zeroes=unmap
)
if [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" -ne 0 ]; then
	skip 'io_uring is switched off on this machine'
fi

mount_goldfs
cp "$mnt/golden/debian.img" "$mnt/vm1.img"
"$goldfs" clone -n 1 --start 2 "$mnt/golden/debian.img" "$mnt/vm%d.img" || fail 'clone -n 1'
cp "$mnt/golden/debian.img" "$mnt/idle.img"
run=$RANDOM$RANDOM
set -m
for n in 1 2; do
	chown $guest_id:$guest_id "$mnt/vm$n.img"
	guest "$n" "$mnt/vm$n.img" "vm$n-$run" "${ways[n - 1]}" &
	pids+=($!)
done
bad=0
for n in 1 2; do
	wait "${pids[n - 1]}" || { echo "guest $n with ${ways[n - 1]} failed"; bad=1; }
done
pids=()
set +m
[ $bad -eq 0 ] || fail 'not all guests came through'

for n in 1 2; do
	check_disk "$mnt/vm$n.img" "vm$n-$run"
done
(cd "$mnt" && sha256sum vm?.img) >"$dir/sums"
umount_goldfs
mount_goldfs
for n in 1 2; do
	check_disk "$mnt/vm$n.img" "vm$n-$run"
done
(cd "$mnt" && sha256sum --quiet -c "$dir/sums") || fail 'a clone reads differently after a remount'
cmp "$mnt/idle.img" "$dir/images/debian.img" || fail 'a clone that was not touched changed'
check_golden
"$goldfs" list "$mnt"
umount_goldfs

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 300 s
#
# Four files are written at once, small and large, aligned or not, direct or not, with fsync and
# punched holes between, and the daemon is killed in the middle, several times. After each mount
# every sector that was acknowledged must be there. Two of the files are never synced, so that small
# writes overwrite in place.
. "$(dirname "$0")/work_lib.sh"
rounds=${ROUNDS:-4}

straight_writes()
{
	awk '$1 == "goldfs_straight_writes_total" { print $2 }' "$mnt/.goldfs/metrics"
}

golden base.img 64
# A small ring, so that it is gone around many times.
mount_goldfs journal-size=16M
for n in 1 2 3; do
	cp "$mnt/golden/base.img" "$mnt/c$n.img"
done
"$goldfs" clone "$mnt/c3.img" "$mnt/c4.img"
rm "$mnt/c3.img"
"$goldfs" clone "$mnt/c4.img" "$mnt/c3.img"

for ((round = 1; round <= rounds; round++)); do
	for n in 1 2 3 4; do
		NO_FSYNC=$([ $n -gt 2 ] || echo 1) \
			"$tools/ackwriter" write "$mnt/c$n.img" "$work/state$n" 30 "$images/base.img" &
		pids+=($!)
	done
	sleep "$((1 + round % 3)).$((RANDOM % 10))"
	# Each file was written whole by then. If it takes too long the writers end, with another status.
	while [ $round -eq $rounds ] && [ "$(straight_writes)" -lt 100 ] && kill -0 "${pids[@]}"; do
		sleep 0.1
	done
	echo "round $round: $(straight_writes) small writes went straight to their place"
	kill_daemon
	for pid in "${pids[@]}"; do
		status=0
		wait "$pid" || status=$?
		[ $status -eq 3 ] || fail "a writer ended with status $status, not because of the daemon"
	done
	pids=()
	mount_goldfs journal-size=16M
	for n in 1 2 3 4; do
		"$tools/ackwriter" verify "$mnt/c$n.img" "$work/state$n" "$images/base.img" ||
			fail "round $round: c$n.img lost acknowledged writes"
	done
done

# A regular end, too, and everything once more.
"$goldfs" settle "$mnt"
for n in 1 2 3 4; do
	"$tools/ackwriter" verify "$mnt/c$n.img" "$work/state$n" "$images/base.img" ||
		fail "after settle: c$n.img"
done
umount_goldfs
mount_goldfs
for n in 1 2 3 4; do
	"$tools/ackwriter" verify "$mnt/c$n.img" "$work/state$n" "$images/base.img" ||
		fail "after unmount and mount: c$n.img"
done
umount_goldfs
"$goldfs" check "$store" || fail "damage that nobody has read yet"

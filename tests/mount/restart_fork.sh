#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The worker forks for the sums of a new image, and is killed while large writes come in. After a
# fork, pages are write-protected until they are written again; a request that the kernel is copying
# into such a page when the process is killed would fail with EIO for the client, so the buffers for
# requests are kept out of forks. One run of many kills met it in six; this one looks for it.
. "$(dirname "$0")/work_lib.sh"
rounds=${ROUNDS:-16}

golden base.img 16
mount_goldfs journal-size=16M
cp "$mnt/golden/base.img" "$mnt/disk.img"

# Eight megabytes at once, each by a process of its own, to regions of their own: all threads are
# at it. It goes on until the file `stop` is there.
write_on()
{
	local n pid writers=()
	for n in 0 1 2 3 4 5 6 7; do
		(while [ ! -e stop ]; do
			dd if=/dev/zero of="$mnt/disk.img" bs=1M count=2 seek=$((n * 2)) \
				oflag=direct conv=notrunc status=none || exit 1
		done) &
		writers+=($!)
	done
	for pid in "${writers[@]}"; do
		wait "$pid" || return 1
	done
}

for round in $(seq "$rounds"); do
	rm -f stop
	write_on 2>"writers.log" &
	writers=$!
	pids=("$writers")
	sleep 0.1
	# Sums are made of an image that is new.
	head -c 65536 /dev/urandom >"$images/.new"
	mv "$images/.new" "$images/new$round.img"
	cp "$mnt/golden/new$round.img" "$mnt/new$round.img"
	for _ in $(seq 200); do
		[ "$(find "$store/golden" -name '*.sums' | wc -l)" -lt "$round" ] || break
		sleep 0.01
	done
	kill_worker
	touch stop
	wait "$writers" || fail "a client saw an error: $(cat writers.log)"
	pids=()
done
umount_goldfs

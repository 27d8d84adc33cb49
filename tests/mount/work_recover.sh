#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 300 s
#
# The store as kill -9 left it is copied, and the copies are recovered in different ways: once,
# twice, and with the recovery itself killed again and again. All of them end with the same bytes
# and the same figures.
. "$(dirname "$0")/work_lib.sh"

golden base.img 32
mount_goldfs
for n in 1 2 3; do
	cp "$mnt/golden/base.img" "$mnt/c$n.img"
done
cp "$mnt/c1.img" "$mnt/c4.img"
for n in 1 2 3 4; do
	"$tools/ackwriter" write "$mnt/c$n.img" "$work/state$n" 60 "$images/base.img" &
	pids+=($!)
done
sleep 1
# The name space changes meanwhile, too.
mkdir "$mnt/folder"
for n in 1 2 3 4 5; do
	cp "$mnt/c1.img" "$mnt/folder/d$n.img"
	sleep 0.2
done
mv "$mnt/folder/d1.img" "$mnt/folder/renamed.img"
mv "$mnt/folder/d2.img" "$mnt/folder/d3.img"
rm "$mnt/folder/d4.img"
sleep 0.3
kill_daemon
wait "${pids[@]}" || true
pids=()
umount "$mnt" 2>/dev/null || umount -l "$mnt"
mv "$store" "$work/crashed"

# use NAME: another copy of what the crash left becomes the store.
use()
{
	rm -rf "$store"
	cp -a --sparse=always "$work/crashed" "$store"
	echo "--- $1"
}

# picture NAME: bytes and figures of everything.
picture()
{
	(cd "$mnt" && find . -name .goldfs -prune -o -type f -print | sort | xargs sha256sum) \
		>"$work/$1.sums"
	"$goldfs" settle "$mnt"
	"$goldfs" list -j "$mnt" | jq -S '.goldfs |= sort_by(.path)' >"$work/$1.figures"
	"$goldfs" df -j "$mnt" | jq -S '.store | {virtual_bytes, data_bytes, unique_bytes, golden_bytes}' \
		>>"$work/$1.figures"
}

same()
{
	diff "$work/once.sums" "$work/$1.sums" || fail "$1: other bytes"
	diff "$work/once.figures" "$work/$1.figures" || fail "$1: other figures"
}

# What one recovery leaves behind when it is killed in turn.
use twice
mount_goldfs
kill_daemon
mv "$store" "$work/recovered"

use once
mount_goldfs
for n in 1 2 3 4; do
	"$tools/ackwriter" verify "$mnt/c$n.img" "$work/state$n" "$images/base.img" ||
		fail "c$n.img lost acknowledged writes"
done
picture once
[ "$(wc -l <"$work/once.sums")" -ge 8 ] || { cat "$work/once.sums"; fail 'files are missing'; }
kill_daemon
mount_goldfs
picture killed_after_settle
same killed_after_settle
umount_goldfs
mount_goldfs
picture unmounted
same unmounted
umount_goldfs

rm -rf "$store"
mv "$work/recovered" "$store"
mount_goldfs
picture twice
same twice
umount_goldfs

# Recovery killed at moments that move through it.
use killed
for ((n = 1; n <= 12; n++)); do
	"$goldfs" mount -f -o "store=$store,log=$store/log" "$images" "$mnt" &
	pid=$!
	sleep "0.0$((n * 7 % 10))$n"
	# Stopped, it cannot start a worker between the list and the end.
	kill -STOP "$pid" 2>/dev/null || true
	for one in "$pid" $(ps -o pid= --ppid "$pid"); do
		kill -9 "$one" 2>/dev/null || true
	done
	wait "$pid" 2>/dev/null || true
done
mount_goldfs
picture killed
same killed
umount_goldfs
"$goldfs" check "$store" || fail "damage that nobody has read yet"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The worker is killed, crashes and aborts, again and again, while files are written and checked and
# names come and go. No client may see an error, nothing acknowledged may be lost, and the next
# worker must be there each time.
. "$(dirname "$0")/work_lib.sh"
seconds=${SECONDS_OF_LOAD:-6}
export ASAN_OPTIONS="${ASAN_OPTIONS-}:handle_segv=0:handle_abort=0"
export TSAN_OPTIONS="${TSAN_OPTIONS-}:handle_segv=0:handle_abort=0"
ulimit -c 0 # these crashes are meant

"$tools/ackwriter" 2>/dev/null || [ $? -eq 2 ] || fail "no ackwriter"
golden base.img 32
head -c 100000 /dev/urandom >"$images/small.img"
truncate -s 512M "$images/wide.img"
cat "$images/wide.img" >/dev/null # into the page cache: from there it is answered without a copy
mount_goldfs journal-size=16M
supervisor=$(daemon_pid)
for n in 1 2; do
	cp "$mnt/golden/base.img" "$mnt/c$n.img"
done
for n in 1 2; do
	"$tools/ackwriter" write "$mnt/c$n.img" "$work/state$n" "$seconds" "$images/base.img" \
		>"writer$n.log" 2>&1 &
	pids+=($!)
done
for n in 1 2; do
	"$here/names.py" "$mnt/names$n" "$seconds" "${SEED:-}" "$mnt/golden/small.img" >"names$n.log" 2>&1 &
	pids+=($!)
done
# The same through the command line, which must ask again when its worker is replaced.
clone_on()
{
	local n=0 end=$((SECONDS + seconds))
	mkdir "$mnt/many"
	while [ $SECONDS -lt $end ]; do
		n=$((n + 1))
		"$goldfs" clone -n 5 "$mnt/golden/base.img" "$mnt/many/r$n-%d.img" || return 1
		[ "$(ls "$mnt/many" | wc -l)" = 5 ] || return 1
		"$goldfs" stat "$mnt/many/r$n-1.img" >/dev/null || return 1
		rm "$mnt/many/"*.img || return 1
	done
}
clone_on >clone.log 2>&1 &
pids+=($!)
# Large reads of what no worker has touched before.
read_on()
{
	local end=$((SECONDS + seconds))
	while [ $SECONDS -lt $end ]; do
		dd if="$mnt/wide.img" of=/dev/null bs=1M iflag=direct status=none || return 1
		cmp "$mnt/golden/base.img" "$images/base.img" || return 1
	done
}
"$goldfs" clone "$mnt/golden/wide.img" "$mnt/wide.img"
read_on >read.log 2>&1 &
pids+=($!)

kills=0
end=$((SECONDS + seconds - 1))
while [ $SECONDS -lt $end ]; do
	# Oftener than may be, were nobody served in between.
	stat "$mnt" >/dev/null || fail "the mount is gone: $(tail "$store/log")"
	sleep "0.$((RANDOM % 3 + 1))"
	set -- KILL KILL SEGV ABRT
	shift $((RANDOM % 4))
	kill_worker "$1"
	kills=$((kills + 1))
done
for pid in "${pids[@]}"; do
	wait "$pid" || failed=$?
done
pids=()
cat writer?.log names?.log clone.log read.log
[ -z "${failed:-}" ] || fail "a client saw something wrong (above)"
[ "$(daemon_pid)" = "$supervisor" ] || fail "another supervisor"
restarts=$(daemon_figure restarts)
[ "$restarts" = "$kills" ] || fail "$restarts restarts after $kills deaths"
[ "$(daemon_figure supervisor_pid)" = "$supervisor" ] || fail "supervisor_pid"
[ "$(daemon_figure worker_pid)" = "$(worker_pid)" ] || fail "worker_pid"
[ "$(daemon_figure uptime_seconds)" -ge $((seconds - 2)) ] || fail "uptime is the worker's"
echo "$kills deaths, the last pause was $(daemon_figure last_pause_ms) ms"
for n in 1 2; do
	"$tools/ackwriter" verify "$mnt/c$n.img" "$work/state$n" "$images/base.img" ||
		fail "c$n.img lost acknowledged writes"
done
umount_goldfs
mount_goldfs
for n in 1 2; do
	"$tools/ackwriter" verify "$mnt/c$n.img" "$work/state$n" "$images/base.img" ||
		fail "c$n.img lost acknowledged writes with the unmount"
done
umount_goldfs
"$goldfs" check "$store" || fail "damage that nobody has read yet"
grep -E 'is damaged|cannot|error' "$store/log" && fail "something suspicious in the log"
exit 0

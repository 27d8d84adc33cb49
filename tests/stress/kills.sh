#!/bin/bash
# SPDX-License-Identifier: MIT
#
# usage: tests/stress/kills.sh BUILD/goldfs
#
# The worker is killed KILLS times (100) at random moments, with CLONES clones (1,000) in the store,
# while fio writes and verifies four clones, a guest works on a fifth, files and folders come and go
# and clones are made by the command line. Each of them stops at the first wrong answer. Afterwards
# everything is verified again, also after an unmount, and the guest's file system is checked. Prints
# the pauses as a client sees them: for each kill the longest write of a fio job that writes 4 KiB
# after 4 KiB with nothing in flight beside. Their median must be less than 300 ms.
#
# GUEST=no leaves the guest out; SEED= and KILLS= repeat a run.
set -u
stress=$(cd "$(dirname "$0")" && pwd)
kills=${KILLS:-100} clones=${CLONES:-1000} seed=${SEED:-$RANDOM$RANDOM}
if [ "${GUEST:-yes}" = yes ]; then
	. "$stress/../boot/lib.sh"
	images=$dir/images
else
	goldfs=$(realpath "$1")
	dir=$(mktemp -d /var/tmp/goldfs-stress.XXXXXX) images=$dir/images mnt=$dir/mnt
	pids=()
	mkdir "$images" "$mnt"
	fail() { echo "FAILED: $*"; exit 1; }
	clean_up()
	{
		[ -z "${pids[*]:-}" ] || kill "${pids[@]}" 2>/dev/null
		mountpoint -q "$mnt" && { "$goldfs" umount "$mnt" || umount -l "$mnt"; }
		rm -rf --one-file-system "$dir"
	}
	trap clean_up EXIT
	trap 'exit 130' INT TERM HUP
fi
set +e
tools=$(dirname "$goldfs")/tests/mount
for tool in fio jq python3; do
	command -v $tool >/dev/null || { echo "needs $tool"; exit 77; }
done
echo "kills.sh: $kills kills, $clones clones, seed $seed"
RANDOM=$((seed % 32768))
ulimit -c 0

head -c 64M /dev/urandom >"$images/base.img"
head -c 100000 /dev/urandom >"$images/small.img"
mnt=$dir/mnt
do_mount()
{
	"$goldfs" mount -o "store=$dir/store,log=$dir/log,journal-size=64M" "$images" "$mnt" ||
		fail "cannot mount"
}
do_mount
"$goldfs" clone -n "$clones" "$mnt/golden/base.img" "$mnt/many%04d.img" || fail "clone -n"
# They are more than names: each has blocks of its own.
python3 - "$mnt" "$clones" <<'END' || fail "cannot write to the clones"
import os, sys
for n in range(1, int(sys.argv[2]) + 1):
    fd = os.open(f"{sys.argv[1]}/many{n:04}.img", os.O_WRONLY)
    for block in range(8):
        os.pwrite(fd, os.urandom(4096), (block * 977 % 16384) * 4096)
    os.close(fd)
END

stats()
{
	jq -e ".daemon.$1" "$mnt/.goldfs/stats.json"
}
stop=$dir/stop
supervisor=$(stats supervisor_pid) || fail "no supervisor_pid"
cd "$dir" || exit 1

# fio writes in laps, so that whatever was written is verified again and again.
for n in 1 2 3 4; do
	cp "$mnt/golden/base.img" "$mnt/fio$n.img"
done
cp "$mnt/golden/base.img" "$mnt/pause.img"
cat >fio.jobs <<END
[global]
directory=$mnt
verify=crc32c
verify_fatal=1
fallocate=none
size=48m
[small]
filename=fio1.img
rw=randwrite
bs=4k
direct=1
ioengine=libaio
iodepth=16
fsync=32
[mixed]
filename=fio2.img
rw=randwrite
bsrange=512-64k
bs_unaligned=0
blockalign=512
direct=1
ioengine=libaio
iodepth=8
[large]
filename=fio3.img
rw=write
bs=1m
direct=1
ioengine=libaio
iodepth=4
[buffered]
filename=fio4.img
rw=randwrite
bs=16k
fsync=16
END
fio_laps()
{
	local lap=0
	while [ ! -e "$stop" ]; do
		lap=$((lap + 1))
		fio --output="fio.$lap" --randseed=$((seed + lap)) --output-format=terse fio.jobs >/dev/null ||
			{ cat "fio.$lap"; return 1; }
		! grep -q 'verify: bad\|verify failed' "fio.$lap" || { cat "fio.$lap"; return 1; }
		last=$((seed + lap))
	done
	echo "fio: $lap laps on four clones, all verified"
	# Once more by a process that has written none of it.
	echo "$last" >fio.last
}
# What one client sees: the log has a line for each write.
pauses()
{
	fio --name=pause --filename="$mnt/pause.img" --rw=randwrite --bs=4k --direct=1 --size=32m \
		--time_based --runtime=100000 --write_lat_log=pause --log_unix_epoch=1 --thinktime=1ms \
		--randseed="$seed" --output=pause.out >/dev/null &
	fio_pid=$!
	while [ ! -e "$stop" ] && kill -0 $fio_pid 2>/dev/null; do sleep 0.2; done
	kill -INT $fio_pid 2>/dev/null
	wait $fio_pid
	! grep -q 'error=' pause.out || { cat pause.out; return 1; }
}
names()
{
	local n=0
	while [ ! -e "$stop" ]; do
		n=$((n + 1))
		"$stress/../mount/names.py" "$mnt/names$1-$n" 5 $((seed + n * 10 + $1)) \
			"$mnt/golden/small.img" || return 1
	done
}
command_line()
{
	local n=0
	mkdir "$mnt/made"
	while [ ! -e "$stop" ]; do
		n=$((n + 1))
		"$goldfs" clone -n 7 "$mnt/golden/base.img" "$mnt/made/r$n-%d.img" || return 1
		[ "$(ls "$mnt/made" | wc -l)" = 7 ] || { ls "$mnt/made"; return 1; }
		"$goldfs" clone "$mnt/many0001.img" "$mnt/made/copy" || return 1
		cp "$mnt/made/copy" "$mnt/made/copy2" || return 1
		cmp "$mnt/made/copy2" "$mnt/many0001.img" || return 1
		rm "$mnt/made/"* || return 1
	done
	echo "command line: $n rounds"
}
guests()
{
	local n=0
	while [ ! -e "$stop" ]; do
		n=$((n + 1))
		"$goldfs" clone "$mnt/golden/debian.img" "$mnt/vm$n.img" || return 1
		chown $guest_id:$guest_id "$mnt/vm$n.img"
		guest "$n" "$mnt/vm$n.img" "vm$n-$seed" cache=none,aio=native,discard=unmap || return 1
		(check_disk "$mnt/vm$n.img" "vm$n-$seed") || return 1
	done
}

loads=()
run()
{
	"$@" >"log.$*" 2>&1 &
	loads+=($!)
	pids+=($!)
}
set -m
run fio_laps
run pauses
run names 1
run names 2
run command_line
[ "${GUEST:-yes}" != yes ] || run guests
set +m
sleep 3

failed()
{
	local pid
	for pid in "${loads[@]}"; do
		kill -0 "$pid" 2>/dev/null || return 0
	done
	return 1
}
: >killed
worst=0
for ((n = 1; n <= kills; n++)); do
	sleep "$((RANDOM % 2)).$((RANDOM % 10))$((RANDOM % 10))"
	failed && break
	worker=$(stats worker_pid) || fail "no worker_pid"
	date +%s%3N >>killed
	kill -9 "$worker" || fail "cannot kill worker $worker"
	# The figure is of the last death; this is of when the next one serves.
	pause=$(stats last_pause_ms)
	[ "${pause:-0}" -le $worst ] || worst=$pause
done
sleep 1
touch "$stop"
bad=
for pid in "${loads[@]}"; do
	wait "$pid" || bad=1
done
pids=()
tail -n 3 log.*
[ -z "$bad" ] || { tail -n 40 log; fail "a client saw something wrong (above), seed $seed"; }
[ "$(stats restarts)" = "$kills" ] || fail "$(stats restarts) restarts after $kills kills"
[ "$(stats supervisor_pid)" = "$supervisor" ] || fail "another supervisor"

fio_verify()
{
	fio --randseed="$(cat fio.last)" --verify_only --output=fio.verify fio.jobs >/dev/null ||
		{ cat fio.verify; fail "$1: fio finds other data"; }
}
fio_verify "at the end"
"$goldfs" umount "$mnt" || fail "umount"
"$goldfs" check "$dir/store" || fail "goldfs check: status $?"
do_mount
fio_verify "after an unmount"
"$goldfs" umount "$mnt" || fail "umount"

python3 - killed pause_lat.1.log "$worst" <<'END'
import statistics, sys
kills = [int(l) for l in open(sys.argv[1])]
writes = []
for line in open(sys.argv[2]):
    end, ns = line.split(",")[:2]
    writes.append((int(end), int(ns) / 1e6))
pauses = []
for n, at in enumerate(kills):
    until = kills[n + 1] if n + 1 < len(kills) else at + 5000
    seen = [ms for end, ms in writes if end + 1 >= at and end - ms <= until and end <= until + 5000]
    if seen:
        pauses.append(max(seen))
pauses.sort()
median = statistics.median(pauses)
print(f"pauses of a client at {len(pauses)} kills: median {median:.0f} ms, "
      f"90 % {pauses[len(pauses) * 9 // 10]:.0f} ms, longest {pauses[-1]:.0f} ms; "
      f"by the supervisor's clock at most {sys.argv[3]} ms")
sys.exit(median >= 300)
END

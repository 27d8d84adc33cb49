#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs top: rounds of text and JSON, and the view on a terminal (top_screen.py).
# Time limit: 300 s
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' || skip "needs python3"
failures=0

wrong()
{
	echo "line ${BASH_LINENO[-2]}: $*"
	failures=$((failures + 1))
}

works()
{
	"$@" >out 2>err || wrong "$* failed: $(cat err)"
}

# The last output as JSON fulfils an expression of jq.
holds()
{
	jq -e "$1" out >/dev/null || wrong "not $1: $(head -c 3000 out)"
}

# comes EXPRESSION COMMAND...: the output of COMMAND, as JSON, fulfils EXPRESSION sooner or later. A
# disk that is busy makes the writer wait for longer than a round.
comes()
{
	local expression=$1 tries
	shift
	for ((tries = 0; tries < 100; tries++)); do
		"$@" >out 2>err || break
		jq -e "$expression" out >/dev/null && return
	done
	wrong "$* never gave $expression: $(cat err; head -c 3000 out)"
}

# Writes 64 KiB and flushes, until it is stopped.
write_for_ever()
{
	exec python3 - "$1" <<-'END'
		import os, sys, time
		fd = os.open(sys.argv[1], os.O_RDWR)
		at = 0
		while True:
		    os.pwrite(fd, os.urandom(65536), at % (8 << 20))
		    os.fsync(fd)
		    at += 65536
		    time.sleep(0.005)
	END
}

make_image base.img 16M
mount_goldfs metrics=clone
mkdir -m 700 mnt/private
works "$goldfs" clone mnt/golden/base.img mnt/busy.img mnt/idle.img mnt/read.img mnt/private/own.img

# Nobody was asked anything yet.
works "$goldfs" top -j -d 0.2 mnt
holds '.goldfs == [] and .store.clones == 4 and .store.virtual_bytes == 67108864 and .jobs == 0'
works "$goldfs" top -j -a -d 0.2 mnt
holds '[.goldfs[].path] | sort == (["/busy.img","/idle.img","/private/own.img","/read.img"] |
	map("'"$mnt"'" + .))'
holds '[.goldfs[] | .unique_bytes == 0 and .shared_bytes == 16777216] | all'

write_for_ever mnt/busy.img &
writer=$!
while ! grep -q '^goldfs_clone_flush_ops_total{clone="busy.img"} [1-9]' mnt/.goldfs/metrics; do
	sleep 0.1
done
grep -q '^goldfs_clone_write_bytes_total{clone="busy.img"} [1-9]' mnt/.goldfs/metrics ||
	wrong "no series of writes"
grep -qx 'goldfs_clone_write_bytes_total{clone="idle.img"} 0' mnt/.goldfs/metrics ||
	wrong "no series of what did not write"
dd if=mnt/read.img of=/dev/null bs=1M status=none

works "$goldfs" top -j -i 3 -d 0.5 mnt
[ "$(wc -l <out)" -eq 3 ] || wrong "an object a line: $(head -c 500 out)"
jq -se 'length == 3' out >/dev/null || wrong "three rounds"
holds '.goldfs | length == 2'
busy='(.goldfs[] | select(.path == "'"$mnt"'/busy.img"))'
jq -se '[.[] | '"$busy"' | .write_ops] | . == sort' out >/dev/null ||
	wrong "what is added up falls: $(head -c 3000 out)"
holds '(.goldfs[] | select(.path == "'"$mnt"'/read.img")) |
	.read_ops_per_second == 0 and .read_latency_ns == 0 and .unique_bytes == 0'
holds '.interval_seconds >= 0.4 and .restarts == 0'
# Operations and bytes are not read at one instant.
comes "$busy"' | .write_bytes_per_second > 0 and .write_ops_per_second > 0 and
	.flush_ops_per_second > 0 and .read_ops_per_second == 0 and .write_latency_ns > 0 and
	.write_latency_max_ns >= .write_latency_ns and .flush_latency_max_ns > 0 and
	.write_bytes == .write_ops * 65536' "$goldfs" top -j -d 0.5 mnt
comes '[.goldfs[].path] == ["'"$mnt"'/busy.img"]' "$goldfs" top --active -j -d 0.5 mnt
works "$goldfs" top -j -d 0.2 -o path,write/s --sort path mnt
holds '.goldfs[0] | keys_unsorted == ["path","write_bytes_per_second"]'
holds '[.goldfs[].path] == ["'"$mnt"'/busy.img","'"$mnt"'/read.img"]'

# What it costs grows with what is written: 8 MiB in the end.
dd if=/dev/urandom of=mnt/read.img bs=1M count=2 seek=4 conv=notrunc,fsync status=none &
works "$goldfs" top -j -d 1 mnt
wait $!
works "$goldfs" top -j -d 0.2 mnt
holds '(.goldfs[] | select(.path == "'"$mnt"'/read.img")) | .unique_bytes == 2097152 and
	.shared_bytes == 14680064'

# Text.
works "$goldfs" top --batch -i 2 -d 0.2 mnt
[ "$(grep -c ' 64M virtual, ' out)" -eq 2 ] || wrong "$(cat out)"
[ "$(grep -c '^READ/s .* PATH$' out)" -eq 2 ] || wrong "$(cat out)"
[ "$(grep -c '/busy.img$' out)" -eq 2 ] || wrong "$(cat out)"
works "$goldfs" top -n -b -d 0.2 -o unique,path --sort path mnt
[ "$(tail -n 1 out)" = "2097152 $mnt/read.img" ] || wrong "$(cat out)"
(cd mnt && "$goldfs" top -d 0.2 | head -n 1 | grep -q ' virtual, ') || wrong "in the mount"
for options in "-i 0" "-i x" "-d 0" "-d 1s" "-d nan" "-o nothing" "--sort nothing" "-x" "mnt mnt"; do
	"$goldfs" top $options >out 2>err
	[ $? -eq 2 ] && [ ! -s out ] || wrong "top $options: $(cat out err)"
done
"$goldfs" top -j / >out 2>err && wrong "a folder that is no mount"
"$goldfs" top -j mnt >/dev/full 2>err && wrong "output that cannot be written"

# The worker is replaced in the middle: it goes on, and adds up.
rm -f rounds
"$goldfs" top -j -i 1000 -d 0.2 mnt >rounds 2>err &
viewer=$!
while [ ! -e rounds ]; do sleep 0.1; done
# rounds_until EXPRESSION: of all complete rounds as one array.
rounds_until()
{
	local tries
	for ((tries = 0; tries < 600; tries++)); do
		head -n "$(wc -l <rounds)" rounds | jq -se "$1" >/dev/null && return
		kill -0 $viewer 2>/dev/null || break
		sleep 0.1
	done
	wrong "never $1: $(cat err; tail -n 1 rounds | head -c 500)"
}
rounds_until 'length >= 3'
if [ "$(daemon_figure supervisor_pid)" -ne 0 ] && ! grep -q 'cannot take over' "$store/log"; then
	kill_worker
	rounds_until '.[-1].restarts == 1'
fi
rounds_until '[.[] | '"$busy"' | .write_ops] | . == sort and .[-1] > .[0] and .[-1] > .[-3]'
kill -0 $viewer || wrong "top ended: $(cat err)"
kill $viewer
wait $viewer
head -n "$(wc -l <rounds)" rounds >whole
jq -se '[.[] | .goldfs[] | .write_ops_per_second] | min >= 0' whole >/dev/null || wrong "below 0"

# Others see what they could reach.
dd if=/dev/zero of=mnt/private/own.img bs=4k count=1 conv=notrunc,fsync status=none
works "$goldfs" top -j -d 0.2 mnt
holds '[.goldfs[].path] | contains(["'"$mnt"'/private/own.img"])'
if setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$work"; then
	cp "$goldfs" goldfs && chmod 755 goldfs
	as_nobody ./goldfs top -j -a -d 0.2 mnt >out 2>err || wrong "$(cat err)"
	holds '[.goldfs[].path] | sort == (["/busy.img","/idle.img","/read.img"] | map("'"$mnt"'" + .))'
fi

# A mount that goes away ends it, with a message.
kill $writer
wait $writer 2>/dev/null
rm -f rounds
"$goldfs" top --batch -d 0.2 mnt >rounds 2>err &
viewer=$!
while [ ! -s rounds ]; do sleep 0.1; done
umount_goldfs
wait $viewer
[ $? -eq 1 ] && grep -q '^goldfs: ".*" is not mounted any more$' err || wrong "$(cat err)"

mount_goldfs ro
works "$goldfs" top -j -a -d 0.2 mnt
holds '.goldfs | length == 4'
umount_goldfs

# On a terminal.
mount_goldfs
"$goldfs" clone mnt/golden/base.img mnt/$'esc\e[2J\xff\xc3\xa4.img' mnt/$'other\e[2J.img' || exit 1
mv mnt/private/own.img mnt/own.img
python3 "$here/top_screen.py" "$goldfs" "$mnt" || wrong "the view"

[ $failures -eq 0 ] || fail "$failures checks"

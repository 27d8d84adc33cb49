#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The store on a small file system that fills up: by its own clones, then by somebody else's file
# while the ring is full too. Only ENOSPC is to be seen; what was synced is there after a remount
# and after kill -9; space that is freed can be used at once.
#
# usage: [SMALL=512M] disk_full.sh BUILD/goldfs [FSTYPE…]
# Time limit: 480 s

. "$(dirname "$0")/lib.sh"

# writer FILE SECONDS SEED: random blocks of 4 to 128 KiB until ENOSPC or the time is over, each
# synced now and then. Writes FILE.synced: what must be there. Any error but ENOSPC is printed.
writer()
{
	python3 - "$@" <<-'END'
	import errno, os, random, sys, time
	path, seconds, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
	rng = random.Random(seed)
	fd = os.open(path, os.O_RDWR)
	size = os.fstat(fd).st_size // 4096
	new, sure, full, end = {}, {}, 0, time.time() + seconds
	def put(block, count, tag):
	    data = b''.join((b'%016d%016d' % (block + i, tag)) * 128 for i in range(count))
	    os.pwrite(fd, data, block * 4096)
	# No two write the same: what is shared takes space when it is overwritten.
	tag = seed * 10**9
	while time.time() < end and full < 20:
	    tag += 1
	    count = rng.choice((1, 1, 2, 8, 32))
	    block = rng.randrange(size - count)
	    try:
	        put(block, count, tag)
	        for i in range(count):
	            new[block + i] = tag
	        if tag % 16 == 0:
	            os.fsync(fd)
	            sure.update(new)
	            new = {}
	    except OSError as e:
	        if e.errno != errno.ENOSPC:
	            sys.exit('%s: block %d: %s' % (path, block, e))
	        full += 1
	        # Whichever of old and new it is: nothing is known of these blocks.
	        for i in range(count):
	            new.pop(block + i, None)
	            sure.pop(block + i, None)
	        time.sleep(0.02)
	# Overwriting what is there goes on, and syncing.
	mine = sorted(sure)
	for n in range(60 if full and mine else 0):
	    tag += 1
	    block = rng.choice(mine)
	    put(block, 1, tag)
	    new[block] = tag
	os.fsync(fd)
	sure.update(new)
	with open(os.environ['RECORDS'] + '/' + os.path.basename(path), 'w') as out:
	    for block, tag in sure.items():
	        print(block, tag, file=out)
	print('full' if full else 'time')
	END
}

# checker FILE: every synced block is what was written last.
checker()
{
	python3 - "$1" "$records/$(basename "$1")" <<-'END'
	import os, sys
	fd = os.open(sys.argv[1], os.O_RDONLY)
	for line in open(sys.argv[2]):
	    block, tag = map(int, line.split())
	    want = (b'%016d%016d' % (block, tag)) * 128
	    got = os.pread(fd, 4096, block * 4096)
	    if got != want:
	        sys.exit('%s: block %d is %r, not %r' % (sys.argv[1], block, got[:32], want[:32]))
	END
}

check_all()
{
	local file
	for file in "$records"/*; do
		[ ! -e "$mnt/$(basename "$file")" ] || checker "$mnt/$(basename "$file")" || fail "$1"
	done
}

# Unmounted: every structure and checksum is as it should be.
check_store()
{
	"$goldfs" check "$store" >"$work/check" 2>&1 || fail "check $1: $(cat "$work/check")"
}

# Nothing may have been told but that space is short.
check_log()
{
	if grep -viE 'full|no space|space for blocks|were kept for|started|mounted|serving|recover|clean' \
		"$store/log" | grep -iE 'error|cannot|read-only|input/output'; then
		fail "the log of a full disk has other trouble"
	fi
}

start_small_fs()
{
	local kind=$1
	command -v "mkfs.$kind" >/dev/null || return 1
	truncate -s "${SMALL:-128M}" "$work/disk.$kind"
	case $kind in
	ext4) mkfs.ext4 -q -F "$work/disk.$kind" ;;
	*) "mkfs.$kind" -q -f "$work/disk.$kind" ;;
	esac >/dev/null 2>&1 || return 1
	mkdir -p "$work/small"
	mount -o loop "$work/disk.$kind" "$work/small" 2>/dev/null || return 1
	extra_mounts+=("$work/small")
	store=$work/small/store
	mkdir "$store"
}

full_by_clones()
{
	local i out first most
	mount_goldfs
	"$goldfs" clone -n 10 "$mnt/golden/base.img" "$mnt/vm%d.img" || fail "cannot clone"
	for i in 1 2 3 4 5 6 7 8 9 10; do
		writer "$mnt/vm$i.img" 220 "$i" >"$work/out.$i" 2>&1 &
	done
	wait $(jobs -p)
	for i in 1 2 3 4 5 6 7 8 9 10; do
		out=$(cat "$work/out.$i")
		[ "$out" = full ] || fail "writer $i: $out"
	done
	df -B1 --output=avail "$mnt" | awk 'NR == 2 && $1 > 4194304 { exit 1 }' ||
		fail "df says $(df -B1 --output=avail "$mnt" | tail -1) bytes are left"
	"$goldfs" stat --json "$mnt"/vm*.img | jq -e '[.goldfs[] | .state == "ok"] | all' >/dev/null ||
		fail "a full disk is no failure: $("$goldfs" stat -o path,state,reason "$mnt"/vm*.img)"
	check_all "while it is full"
	kill_daemon
	mount_goldfs
	check_all "after kill -9"
	# What is freed can be written at once: by removing one file and discarding most of two others.
	# Writers do not get equal shares of the disk, so those that got most are taken; and of what is
	# freed the first goes to the reserve, some of which became maps and checksums.
	mapfile -t most < <(stat -c '%b %n' "$mnt"/vm*.img | sort -rn | cut -d ' ' -f 2-)
	first=$(df -B1 --output=avail "$mnt" | tail -1)
	rm "${most[0]}"
	dd if=/dev/urandom of="${most[9]}" bs=64k count=16 seek=6000 conv=notrunc,fsync 2>"$work/dd" ||
		fail "after a removal there is no space ($first before): $(cat "$work/dd")"
	for i in 1 2; do
		fallocate -p -o 0 -l 300M "${most[i]}" || fail "discard"
	done
	dd if=/dev/urandom of="${most[8]}" bs=1M count=8 seek=200 conv=notrunc,fsync 2>"$work/dd" ||
		fail "after a discard there is no space: $(cat "$work/dd")"
	for i in 0 1 2 8 9; do
		rm "$records/$(basename "${most[i]}")"
	done
	umount_goldfs
	check_store "when clones filled the disk"
	mount_goldfs
	check_all "after a remount"
	check_log
	rm "$mnt"/vm*.img "$records"/*
	"$goldfs" settle "$mnt" || fail "settle"
}

# Somebody else takes all that is left, while the ring has blocks without a place.
full_by_others()
{
	local i
	"$goldfs" clone -n 3 "$mnt/golden/base.img" "$mnt/vm%d.img" || fail "cannot clone"
	dd if=/dev/urandom of="$mnt/vm3.img" bs=1M count=40 conv=notrunc,fsync 2>/dev/null
	for i in 1 2; do
		writer "$mnt/vm$i.img" 120 "$i" >"$work/out.$i" 2>&1 &
	done
	sleep 1
	dd if=/dev/zero of="$work/small/foreign" bs=1M 2>/dev/null
	dd if=/dev/zero of="$work/small/foreign2" bs=4k 2>/dev/null
	wait $(jobs -p)
	for i in 1 2; do
		grep -qx full "$work/out.$i" || fail "writer $i: $(cat "$work/out.$i")"
	done
	# Overwrites of what is owned go on for more than a ring's length.
	for i in 1 2 3; do
		dd if=/dev/urandom of="$mnt/vm3.img" bs=4k count=8192 conv=notrunc,fsync 2>"$work/dd" ||
			fail "overwriting on a full disk: $(cat "$work/dd")"
	done
	mv "$mnt/vm3.img" "$mnt/renamed.img" || fail "rename on a full disk"
	truncate -s 20M "$mnt/renamed.img" || fail "truncate on a full disk"
	touch "$mnt/renamed.img" || fail "touch on a full disk"
	check_all "when others filled the disk"
	kill_daemon
	mount_goldfs
	check_all "when others filled the disk, after kill -9"
	umount_goldfs
	check_store "when others filled the disk"
	mount_goldfs
	check_all "when others filled the disk, after a remount"
	rm -f "$work/small/foreign" "$work/small/foreign2"
	dd if=/dev/urandom of="$mnt/renamed.img" bs=64k count=16 seek=400 conv=notrunc,fsync 2>"$work/dd" ||
		fail "when others made space: $(cat "$work/dd")"
	check_all "when others made space"
	"$goldfs" settle "$mnt" || fail "settle"
	check_log
	umount_goldfs
	check_store "at the end"
}

setup "$1"
shift
command -v jq >/dev/null || skip "needs jq"
records=$work/records
export RECORDS=$records
mkdir "$records"
make_image base.img $((512 << 20)) 16
tried=
for kind in "${@:-ext4}"; do
	start_small_fs "$kind" || continue
	tried=yes
	full_by_clones
	full_by_others
	rm -f "$records"/*
	umount "$work/small" || fail "umount"
done
[ "$tried" ] || skip "needs a loop device and mkfs"

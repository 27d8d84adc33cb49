#!/bin/bash
# SPDX-License-Identifier: MIT
#
# usage: tests/bench/depth.sh BUILD/goldfs
#
# What a long ancestry costs who reads. Two files with the same content: one is a clone of a golden
# image into which all was written (depth 1), the other a clone of a clone … DEPTH times, each of
# which wrote its share of the same. Both are read in turn, warm, ROUNDS times, with O_DIRECT:
# 4 KiB at random and 1 MiB in sequence; the best of each counts, since others use the machine too.
# Prints a table with the ratio, and exits 1 when one of them is below 0.9.
#
# Environment: DEPTH (64), ROUNDS (5), SECONDS_EACH (3), SIZE in MiB (512), EXTENTS of 64 KiB and BLOCKS of
# 4 KiB that each file of the chain writes (16 and 64), SEED.
. "$(dirname "$0")/../mount/lib.sh"
set -eo pipefail
setup "$1"
for tool in fio jq python3; do
	command -v "$tool" >/dev/null || skip "needs $tool"
done

depth=${DEPTH:-64} rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-3} size=${SIZE:-512}
extents=${EXTENTS:-16} blocks=${BLOCKS:-64} seed=${SEED:-$RANDOM}
declare -A best

# write_share FILE N: what the Nth file of the chain writes, the same for the same seed.
write_share()
{
	python3 - "$1" "$seed $2" "$size" "$extents" "$blocks" <<-'END'
		import os, random, sys
		name, seed, size, extents, blocks = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
		rng = random.Random(seed)
		fd = os.open(name, os.O_WRONLY)
		for length, count in (65536, extents), (4096, blocks):
		    for _ in range(count):
		        os.pwrite(fd, rng.randbytes(length), rng.randrange((size << 20) // length) * length)
	END
}

# measure FILE NAME FIO-OPTION...: bytes per second.
measure()
{
	local file=$1 name=$2
	shift 2
	fio --name="$name" --filename="$file" --readonly --direct=1 --ioengine=libaio \
		--time_based --runtime="$seconds" --output-format=json "$@" |
		jq -e '.jobs[0] | if .error == 0 then .read.bw_bytes else error("fio failed") end'
}

# keep KEY VALUE: the best one.
keep()
{
	[ "$2" -le "${best[$1]:-0}" ] || best[$1]=$2
}

make_image base.img $((size << 20))
mount_goldfs dedup=off
"$goldfs" clone "$mnt/golden/base.img" "$mnt/flat"
"$goldfs" clone "$mnt/golden/base.img" "$mnt/plain"
previous=$mnt/golden/base.img
for ((i = 1; i <= depth; i++)); do
	"$goldfs" clone "$previous" "$mnt/chain$i"
	previous=$mnt/chain$i
	write_share "$previous" "$i"
	write_share "$mnt/flat" "$i"
done
"$goldfs" clone "$previous" "$mnt/deep"
"$goldfs" settle "$mnt"
cmp "$mnt/flat" "$mnt/deep" || fail "the files differ, seed $seed"
cat "$mnt/plain" >/dev/null

for ((i = 0; i < rounds; i++)); do
	for file in flat deep plain; do
		keep "random $file" "$(measure "$mnt/$file" random --rw=randread --bs=4k --iodepth=16)"
		keep "single $file" "$(measure "$mnt/$file" single --rw=randread --bs=4k --iodepth=1)"
		keep "sequential $file" "$(measure "$mnt/$file" sequential --rw=read --bs=1m --iodepth=4)"
	done
done

printf 'depth %s, %s MiB, %s x 64 KiB and %s x 4 KiB per layer, seed %s; best of %s\n' \
	"$depth" "$size" "$extents" "$blocks" "$seed" "$rounds"
printf '%-34s %12s %12s %8s %12s\n' 'MB/s' 'depth 1' "depth $depth" ratio untouched
status=0
row()
{
	local flat=${best["$2 flat"]} deep=${best["$2 deep"]} plain=${best["$2 plain"]}
	awk -v name="$1" -v flat="$flat" -v deep="$deep" -v plain="$plain" 'BEGIN {
		printf "%-34s %12.1f %12.1f %8.3f %12.1f\n",
			name, flat / 1e6, deep / 1e6, deep / flat, plain / 1e6
		exit deep < 0.9 * flat }' || status=1
}
row 'random 4 KiB, 16 at a time' random
row 'random 4 KiB, one by one' single
row 'sequential 1 MiB, 4 at a time' sequential
umount_goldfs
exit $status

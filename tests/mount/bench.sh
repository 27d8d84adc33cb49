#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 180 s
#
# `make bench` in small: every case once for goldfs, but for what is the same at depth 16, a few for all
# peers that there are. The report must name each case and each peer that is missing; images compare
# equal. What is fast is not asked.
. "$(dirname "$0")/lib.sh"
setup "$1"
bench=$here/../bench
floor=$(dirname "$goldfs")/tests/bench/floor
[ -x "$floor" ] || skip 'floor is not built'
ldd "$goldfs" | grep -q san && skip 'measures nothing in an instrumented build'
for tool in fio jq python3 losetup mkfs.ext4; do
	command -v $tool >/dev/null || skip "needs $tool"
done

# run_bench OUTPUT: the environment says what.
run_bench()
{
	mkdir -p "$work/disk"
	TIME=0.05 ROUNDS=1 SIZE=16M SUSTAINED=4M OPTIONS=journal-size=16M WORK=$work/disk \
		"$bench/bench" "$goldfs" "$(dirname "$floor")" "$work/$1" >"$work/$1.out" 2>"$work/$1.err" ||
		{ tail "$work/$1.err"; fail "bench, $1"; }
	[ -s "$work/$1/report.md" ] || fail 'no report'
	# A peer that does not work here is named, goldfs and the floor have to.
	jq -r '.notes[]' "$work/$1/results.json" | grep -E 'with (goldfs|floor):' && fail 'a case failed'
	return 0
}

cases=$(python3 -B -c "
import sys
sys.path.insert(0, '$bench')
import cases
print(*[c.name for c in cases.CASES if not c.name.endswith('16')])") || fail 'no list of cases'
CASES="$cases mounts" PEERS=goldfs MOUNTS='1 20' run_bench all
for case in $cases; do
	jq -e --arg name "$case" '.cases[] | select(.name == $name).medians.goldfs > 0' \
		"$work/all/results.json" >/dev/null || fail "no result for $case"
done
jq -e '.clones[1].clones == 20 and .clones[1].memory_bytes > 0' "$work/all/results.json" \
	>/dev/null || fail 'no result for mounts'
for peer in floor sparse reflink qcow2 nbdkit xmount; do
	grep -q "left out: $peer: not asked for" "$work/all/report.md" || fail "$peer is not named"
done

# A recording, replayed on clones and compared: what fio asked of the floor stands for a guest.
mkdir "$work/rec" "$work/cache"
truncate -s 16M "$work/cache/disk.img"
cp "$work/cache/disk.img" "$work/disk.img"
"$floor" -r "$work/cache/boot.trace" "$work/disk.img" "$work/rec" &
until mountpoint -q "$work/rec"; do sleep 0.01; done
extra_mounts+=("$work/rec")
fio --name=x --filename="$work/rec/disk" --rw=randrw --bsrange=4k-64k --size=16M --io_size=2M \
	--direct=1 --fsync=16 --allow_file_create=0 >"$work/fio" || fail 'fio on the floor'
umount "$work/rec"
wait
pieces=$(awk '$2 == "W" { n += int(($4 + 4095) / 4096) } END { print n }' "$work/cache/boot.trace")
yes 01 | tr -d '\n' | head -c "$pieces" >"$work/cache/boot.trace.same"
BOOT_CACHE=$work/cache VERIFY=1 GUESTS=10 PEERS=goldfs CASES=guests run_bench boots
jq -e '[.guests[] | select(.peer == "goldfs" and .stored > 0)] | length == 3' \
	"$work/boots/results.json" >/dev/null || { cat "$work/boots.err"; fail 'no boots'; }

CASES='read1 write1 fullread1' run_bench some
for peer in goldfs floor sparse reflink qcow2 nbdkit xmount; do
	grep -q "^- $peer (\|left out: $peer:" "$work/some/report.md" || fail "$peer is not named"
done
exit 0

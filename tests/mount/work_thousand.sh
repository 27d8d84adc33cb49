#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 240 s
#
# A thousand clones of a disk that is being written, by one command: all there, all the same, all
# still there after kill -9. Prints how long it took and what it costs in memory.
. "$(dirname "$0")/work_lib.sh"

golden base.img 64
mount_goldfs
cp "$mnt/golden/base.img" "$mnt/busy.img"
mkdir "$mnt/vdi"
"$tools/ackwriter" write "$mnt/busy.img" "$work/state" 100 "$images/base.img" &
pids+=($!)
sleep 1

seconds()
{
	local from
	from=$(date +%s.%N)
	"$@" >"$work/output" || fail "$*"
	awk -v a="$from" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f s", b - a }'
}

# RssAnon and RssShmem of all processes of the daemon, in KiB.
memory()
{
	local pid sum=0 n
	for pid in $(jq '.daemon | .worker_pid, .supervisor_pid' "$mnt/.goldfs/stats.json" |
		sort -u | grep -v -e null -e '^0$'); do
		for n in $(awk '/^(RssAnon|RssShmem):/ { print $2 }' "/proc/$pid/status"); do
			sum=$((sum + n))
		done
	done
	echo $sum
}

echo "clone -n 1000 of a golden image: $(seconds \
	"$goldfs" clone -n 1000 "$mnt/golden/base.img" "$mnt/vdi/desk%04d.img")"
echo "clone -n 1000 of a disk being written: $(seconds \
	"$goldfs" clone -n 1000 "$mnt/busy.img" "$mnt/vdi/copy%04d.img")"
[ "$(find "$mnt/vdi" -name 'desk*.img' | wc -l)" -eq 1000 ] || fail 'not 1000 clones'
[ "$(find "$mnt/vdi" -name 'copy*.img' | wc -l)" -eq 1000 ] || fail 'not 1000 copies'

# One instant: the first and the last are the same.
cmp "$mnt/vdi/copy0001.img" "$mnt/vdi/copy1000.img" || fail 'copies of one instant differ'
kill "${pids[@]}" 2>/dev/null || true
wait "${pids[@]}" 2>/dev/null || true
pids=()
sum=$(sha256sum <"$mnt/vdi/copy0500.img")
kill_daemon

echo "mount with 2000 clones after kill -9: $(seconds mount_goldfs)"
start_memory=$(memory)
[ "$(find "$mnt/vdi" -type f | wc -l)" -eq 2000 ] || fail 'clones were lost'
[ "$(sha256sum <"$mnt/vdi/copy0500.img")" = "$sum" ] || fail 'a copy changed'
"$tools/ackwriter" verify "$mnt/busy.img" "$work/state" "$images/base.img" || fail 'busy.img'
cmp "$mnt/vdi/desk0777.img" "$images/base.img" || fail 'a clone reads differently'

rm "$mnt"/vdi/copy*.img
for n in $(seq 1 1000); do
	dd if="$mnt/vdi/desk$(printf %04d "$n").img" of=/dev/null bs=64k count=2 skip=$n status=none ||
		fail "clone $n cannot be read"
done
echo "memory: $start_memory KiB after the mount, $(memory) KiB after every clone was read from"
if ! ldd "$goldfs" | grep -q san; then
	[ "$(memory)" -lt $((100 * 1024)) ] || fail 'more than 100 MiB'
fi
echo "list: $(seconds "$goldfs" list -n "$mnt/vdi")"
umount_goldfs
echo "mount with 1000 clones: $(seconds mount_goldfs)"
umount_goldfs

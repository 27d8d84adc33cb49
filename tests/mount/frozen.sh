#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 120 s
#
# The file system below holds writes up, as it may at any time and for as long as it likes; here it is
# frozen. Who reads meanwhile is answered, and what was held up is there afterwards.
. "$(dirname "$0")/lib.sh"
setup "$1"
for tool in mkfs.ext4 fsfreeze; do
	command -v $tool >/dev/null || skip "needs $tool"
done
truncate -s 512M disk
mkfs.ext4 -q -F disk || skip "mkfs.ext4 does not work"
mkdir below
mount -o loop disk below 2>/dev/null || skip "needs loop devices"
frozen=
# What is frozen cannot be unmounted.
end()
{
	local status=$?
	[ -z "$frozen" ] || fsfreeze -u "$work/below"
	kill "${writers[@]}" ${thaw:+$thaw} 2>/dev/null
	wait
	(exit $status)
	cleanup
}
writers=()
thaw=
trap end EXIT
extra_mounts=("$mnt" "$work/below")
store=$work/below/store
mkdir "$store"
make_image base.img 8M
mount_goldfs
for name in a b c d; do
	cp "$mnt/golden/base.img" "$mnt/$name.img" || fail "no clone"
done
head -c 1M /dev/urandom >data
cmp "$mnt/b.img" "$images/base.img" || fail "other content"
dd if=data of="$mnt/a.img" bs=1M conv=notrunc status=none || fail "cannot write"

for size in 4096 1048576; do
	fsfreeze -f below || skip "needs fsfreeze"
	frozen=yes
	# Whoever waits for a request cannot be ended otherwise.
	(sleep 40; fsfreeze -u "$work/below") &
	thaw=$!
	# As many as may be active at once.
	for name in a c; do
		dd if=data of="$mnt/$name.img" bs=$size count=1 seek=1 oflag=direct conv=notrunc \
			status=none &
		writers+=($!)
	done
	sleep 0.5
	for pid in "${writers[@]}"; do
		kill -0 "$pid" 2>/dev/null || skip "a frozen file system does not hold writes up here"
	done
	# Somebody who takes a request that waits for the store comes next: the thread that is left.
	fallocate -p -o 0 -l 65536 "$mnt/d.img" &
	writers+=($!)
	# And two who change what others look up their files in.
	mkdir "$mnt/folder$size" &
	writers+=($!)
	"$goldfs" clone "$mnt/golden/base.img" "$mnt/new$size.img" &
	writers+=($!)
	sleep 0.5
	timeout 20 dd if="$mnt/b.img" of=/dev/null bs=1M iflag=direct status=none ||
		fail "a reader waits for somebody else's write of $size bytes"
	timeout 20 stat "$mnt/b.img" >stat.out || fail "so does stat"
	kill $thaw
	fsfreeze -u below
	frozen=
	wait "${writers[@]}" || fail "a write that was held up failed"
	writers=()
	[ -d "$mnt/folder$size" ] || fail "a folder that was held up is not there"
	cmp "$mnt/new$size.img" "$images/base.img" || fail "a clone that was held up is another"
	for name in a c; do
		cmp -n $size "$mnt/$name.img" data "$size" || fail "$name.img: other bytes"
	done
done
umount_goldfs

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Content is known by a hash, which guests may collide: with 8 bits of it, by a switch that builds for
# tests have (make DEVELOPER=1), everything collides. Data stays right, and only less is shared.
#
# In a build without the switch nothing collides, and the rest is compared all the same.
#
# Environment: MIB (16), SEED (1).
. "$(dirname "$0")/work_lib.sh"
need python3
mib=${MIB:-16} seed=${SEED:-1}
echo "SEED=$seed"
has_switch=$(grep -qa GOLDFS_TEST_HASH_BITS "$goldfs" && echo yes || echo no)

golden base.img 16
python3 -c "import random, sys; sys.stdout.buffer.write(random.Random($seed).randbytes($mib << 20))" >data

# shared BITS: how many bytes two clones share that hold the same, and an image's bytes.
shared()
{
	export GOLDFS_TEST_HASH_BITS=$1
	rm -rf "$store"
	mkdir "$store"
	mount_goldfs
	"$goldfs" clone -n 3 "$mnt/golden/base.img" "$mnt/%d.img"
	for _ in $(seq 100); do
		[ -z "$(find "$store/index" -type f ! -name '*.*' 2>/dev/null)" ] || break
		sleep 0.1
	done
	for n in 1 2; do
		truncate -s $((mib + 32))M "$mnt/$n.img"
		dd if=data of="$mnt/$n.img" bs=1M seek=16 conv=notrunc,fsync status=none
	done
	# What an image has, at another place.
	truncate -s 48M "$mnt/3.img"
	dd if="$images/base.img" of="$mnt/3.img" bs=1M seek=20 count=4 conv=notrunc,fsync status=none
	"$goldfs" settle "$mnt"
	for _ in 1 2; do
		for n in 1 2; do
			cmp -n $((mib << 20)) -i 0:$((16 << 20)) data "$mnt/$n.img" ||
				fail "$1 bits: clone $n is not what was written"
			cmp -n $((16 << 20)) "$images/base.img" "$mnt/$n.img" || fail "$1 bits: clone $n"
		done
		cmp -n $((4 << 20)) -i 0:$((20 << 20)) "$images/base.img" "$mnt/3.img" ||
			fail "$1 bits: what an image has is another"
		umount_goldfs
		mount_goldfs
	done
	of_clones=$(figure "$mnt/2.img" shared_clone_bytes)
	of_image=$(("$(figure "$mnt/3.img" shared_golden_bytes)"))
	echo "$1 bits: $of_clones bytes shared with a clone, $of_image with an image"
	"$goldfs" scrub "$mnt" >/dev/null || fail "$1 bits: scrub finds something"
	umount_goldfs
	"$goldfs" check "$store" >check.log || fail "$1 bits: $(cat check.log)"
}

shared 0
all=$of_clones
# A few hints are lost where a bucket of the table overflows.
[ "$all" -ge $(((mib << 20) / 50 * 49)) ] || fail "without collisions $all bytes are shared"
shared 8
if [ "$has_switch" = yes ]; then
	[ "$of_clones" -lt $((all / 2)) ] || fail "with 8 bits as much is shared"
	[ "$of_clones" -gt 0 ] || fail "with 8 bits nothing is shared"
else
	echo "this build has no switch: nothing collided"
fi

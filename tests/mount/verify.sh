#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Damage in the store: with verify=read nobody gets a wrong byte, scrub names what is damaged and
# whom it concerns, what memory still knows is written anew, and an intact store is silent.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"

# flip FILE OFFSET: one bit.
flip()
{
	python3 - "$1" "$2" <<-'END' || fail "cannot flip a bit of $1"
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		at = int(sys.argv[2])
		byte = os.pread(fd, 1, at)[0]
		os.pwrite(fd, bytes([byte ^ 16]), at)
	END
}

# put NAME BLOCK COUNT FILE: blocks of FILE from its start.
put()
{
	dd if="$4" of="$mnt/$1" bs=4k seek="$2" count="$3" conv=notrunc status=none ||
		fail "cannot write $1"
}

scrub()
{
	"$goldfs" scrub -j "$mnt" >scrub.json
}

scrub_is_clean()
{
	scrub || fail "scrub of an intact store: $(cat scrub.json)"
	[ "$(jq '.scrub.damage_found + (.scrub.findings | length)' scrub.json)" = 0 ] ||
		fail "scrub of an intact store found $(cat scrub.json)"
}

# scrub_finds STRUCTURE STATE PATH: one finding of that kind; PATH "": of no file.
scrub_finds()
{
	local status=0
	scrub || status=$?
	[ $status = 1 ] || fail "scrub of a damaged store ended with $status: $(cat scrub.json)"
	jq -e --arg s "$1" --arg t "$2" --arg p "$3" '.scrub.findings | any(.structure == $s and
		.state == $t and ($p == "" or (.paths | index($p))))' scrub.json >/dev/null ||
		fail "scrub does not say \"$1\" \"$2\" \"$3\": $(cat scrub.json)"
}

# reads NAME BLOCK COUNT FILE: these are the first blocks of FILE.
reads()
{
	dd if="$mnt/$1" bs=4k skip="$2" count="$3" iflag=direct status=none |
		cmp - <(head -c $(($3 * 4096)) "$4") || fail "$1 block $2 is not what was written"
}

# reads_error NAME BLOCK
reads_error()
{
	! dd if="$mnt/$1" bs=4k skip="$2" count=1 iflag=direct status=none of=/dev/null 2>err ||
		fail "$1 block $2 can be read"
	grep -q "Input/output error" err || fail "$1 block $2: $(cat err)"
}

state()
{
	"$goldfs" stat -j "$mnt/$1" | jq -r '.goldfs[0].state'
}

make_image base.img $((8 << 20))
make_image blank.img $((1 << 20))
head -c $((1 << 20)) /dev/urandom >large
head -c $((16 << 12)) /dev/urandom >small

mount_goldfs verify=read
"$goldfs" clone "$mnt/golden/base.img" "$mnt/a" || fail "no clone"
"$goldfs" clone "$mnt/golden/base.img" "$mnt/b" || fail "no clone"
put a 16 256 large
put a 600 8 small
"$goldfs" clone "$mnt/a" "$mnt/c" || fail "no clone"
put b 1024 8 small
"$goldfs" settle "$mnt" || fail "cannot settle"
scrub_is_clean
reads a 16 256 large
reads c 16 256 large
[ "$(state a)" = ok ] || fail "state of an intact clone: $(state a)"

# ---- a block at rest, of a layer that two clones show ----
flip "$store/layer/1.data" $((20 * 4096 + 77))
reads a 16 4 large
reads_error a 20
reads_error c 20
reads b 1024 8 small
grep -q '"[ac]" is damaged at byte 81920' "$store/log" || fail "the log does not name the clone"
[ "$(state a)" = damaged ] || fail "state of a damaged clone: $(state a)"
[ "$(state b)" = ok ] || fail "state of another clone: $(state b)"
scrub_finds data found a
scrub_finds data found c
jq -e '.scrub.findings | any(.paths | index("b"))' scrub.json >/dev/null &&
	fail "scrub names a clone that is not concerned"
# Part of it cannot be written, all of it can.
! dd if=small of="$mnt/a" bs=512 seek=160 count=1 conv=notrunc status=none 2>/dev/null ||
	fail "damage was given a new checksum"
put a 20 1 small
reads a 20 1 small
reads_error c 20
flip "$store/layer/1.data" $((20 * 4096 + 77))
reads c 16 256 large
"$goldfs" settle "$mnt" || fail "cannot settle"
[ "$(state c)" = ok ] || fail "state of a clone that is whole again: $(state c)"
scrub_is_clean

# ---- a checksum, and one that is gone ----
flip "$store/layer/1.sum" $((30 * 4 + 1))
reads_error c 30
scrub_finds data found c
flip "$store/layer/1.sum" $((30 * 4 + 1))
dd if="$store/layer/1.sum" of=sum bs=4 skip=31 count=1 status=none
dd if=/dev/zero of="$store/layer/1.sum" bs=4 seek=31 count=1 conv=notrunc status=none
reads_error c 31
dd if=sum of="$store/layer/1.sum" bs=4 seek=31 count=1 conv=notrunc status=none
reads c 16 256 large

# ---- metadata, which memory knows ----
for file in superblock superblock.copy catalog.0 catalog.1; do
	flip "$store/$file" $(($(stat -c %s "$store/$file") > 4200 ? 4200 : 100))
	scrub_finds "${file%%.*}" repaired ""
done
flip "$store/layer/1.map" 2200
flip "$store/layer/1.map" $((4096 + 2200))
scrub_finds map repaired c
scrub_is_clean
umount_goldfs
mount_goldfs verify=read
reads b 1024 8 small

# ---- a block in the journal ----
# Written and damaged by one process, since a checkpoint may take the block to its place in between:
# then once more.
for _ in 1 2 3 4 5; do
	python3 - "$store/journal/0" "$mnt/b" fresh <<-'END' || fail "the block is not in the journal"
		import os, sys
		journal = os.open(sys.argv[1], os.O_RDWR)
		file = os.open(sys.argv[2], os.O_WRONLY)
		block = os.urandom(4096)
		open(sys.argv[3], "wb").write(block)
		size = os.fstat(journal).st_size
		os.pread(journal, size, 0)
		os.pwrite(file, block, 1100 * 4096)
		at = os.pread(journal, size, 0).rfind(block)
		if at < 0:
		    sys.exit(1)
		os.pwrite(journal, bytes([block[100] ^ 16]), at + 100)
	END
	dd if="$mnt/b" bs=4k skip=1100 count=1 iflag=direct status=none of=seen 2>/dev/null || break
	cmp seen fresh || fail "a damaged block of the journal was read"
done
reads_error b 1100
scrub_finds journal found b
reads_error b 1100
put b 1100 1 small
"$goldfs" settle "$mnt"
scrub || scrub_is_clean

# ---- a golden image, while nothing is mounted ----
for _ in $(seq 200); do
	[ -e "$store/golden/1.sums" ] && break
	sleep 0.1
done
[ -e "$store/golden/1.sums" ] || fail "the image has no sums"
umount_goldfs
touch -r "$images/base.img" stamp
flip "$store/golden/1" $(((1 << 20) + 3 * 131072 + 50000))
touch -r stamp "$images/base.img"
mount_goldfs verify=read
reads_error b $((((1 << 20) + 3 * 131072 + 50000) / 4096))
reads b 1024 8 small
scrub_finds golden found b
umount_goldfs
flip "$store/golden/1" $(((1 << 20) + 3 * 131072 + 50000))
touch -r stamp "$images/base.img"
mount_goldfs verify=read
scrub_is_clean

# In a block that tells whether it is the image at all: then it is not served, which concerns those,
# too, who do not show that block.
"$goldfs" clone "$mnt/golden/base.img" "$mnt/d" || fail "no clone"
put d 0 256 large
umount_goldfs
flip "$store/golden/1" 10
touch -r stamp "$images/base.img"
mount_goldfs verify=read
reads_error d 1000
scrub_finds golden found d
umount_goldfs
flip "$store/golden/1" 10
touch -r stamp "$images/base.img"
mount_goldfs verify=read
reads d 0 256 large
rm "$mnt/d"
"$goldfs" settle "$mnt"
scrub_is_clean

# ---- a synced record of the journal, when the daemon was killed ----
head -c 4096 /dev/urandom >fresh
put b 1200 1 fresh
sync "$mnt/b"
put b 1201 1 large
kill_daemon
umount -l "$mnt"
python3 - "$store/journal/0" fresh >where <<-'END'
	import sys
	print(open(sys.argv[1], "rb").read().rfind(open(sys.argv[2], "rb").read()))
END
[ "$(cat where)" -gt 0 ] || fail "the synced block is not in the journal"
flip "$store/journal/0" $(($(cat where) + 5))
! "$goldfs" mount -o "store=$store,log=$store/log" "$images" "$mnt" 2>err ||
	fail "a store whose journal lost what was synced is mounted"
grep -q "goldfs check" "$store/log" err || fail "no next step is named: $(cat err)"
flip "$store/journal/0" $(($(cat where) + 5))
mount_goldfs verify=read
reads b 1200 1 fresh
reads b 1201 1 large
scrub_is_clean
umount_goldfs

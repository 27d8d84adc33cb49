#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 240 s
#
# What people do to golden images that have clones. Replaced by mv or deleted: the clones go on and
# new clones get the new image. Touched or chmod-ed: nothing happens. Overwritten or truncated in
# place, mounted or not: a clone reads what it read before, or is refused with a message that
# names the image; never a mix.
. "$(dirname "$0")/work_lib.sh"

size=16
for name in move delete touch inplace truncated unmounted append; do
	golden $name.img $size
	cp "$images/$name.img" "$work/$name.before"
done

mount_goldfs
for name in move delete touch inplace truncated unmounted append; do
	cp "$mnt/golden/$name.img" "$mnt/$name.img"
	"$goldfs" clone "$mnt/golden/$name.img" "$mnt/$name-2.img"
	# The first keeps something of its own.
	dd if=/dev/zero of="$mnt/$name.img" bs=4096 seek=10 count=3 conv=notrunc,fsync status=none
	dd if=/dev/zero of="$work/$name.before" bs=4096 seek=10 count=3 conv=notrunc status=none
done

same()
{
	cmp "$mnt/$1.img" "$work/$1.before" || fail "$2: the clone of $1.img reads differently"
}

# Right or refused: anything else is a mix. When refused, the log or the state says why.
same_or_fenced()
{
	local status=0 state
	cat "$mnt/$1.img" >"$work/now" 2>"$work/err" || status=$?
	state=$("$goldfs" stat -j "$mnt/$1.img" | jq -r '.goldfs[0].state')
	if [ $status -eq 0 ]; then
		cmp "$work/now" "$work/$1.before" || fail "$2: mixed bytes (state '$state')"
		echo "$2: the clone reads on (state '$state')"
	else
		grep -q "$1.img" "$store/log" || fail "$2: no message names $1.img"
		echo "$2: the clone is fenced (state '$state'): $(grep "$1.img" "$store/log" | tail -n 1)"
	fi
}

# By mv.
head -c ${size}M /dev/urandom >"$images/.new" && mv "$images/.new" "$images/move.img"
same move 'replaced by mv'
cp "$mnt/golden/move.img" "$mnt/new.img"
cmp "$mnt/new.img" "$images/move.img" || fail 'a new clone is not of the new image'
same move 'replaced by mv'

# By rm.
rm "$images/delete.img"
same delete 'deleted'
[ ! -e "$mnt/golden/delete.img" ] || fail 'a deleted image is still shown'

# By touch and chmod.
touch "$images/touch.img"
same touch 'touched'
chmod 600 "$images/touch.img"
chmod 644 "$images/touch.img"
touch -d '2001-02-03 04:05:06' "$images/touch.img"
same touch 'touched again'
cp "$mnt/golden/touch.img" "$mnt/touched.img"
cmp "$mnt/touched.img" "$images/touch.img" || fail 'no clone of a touched image'

# In place, while mounted and read at the same time.
(while [ ! -e "$work/enough" ]; do
	cat "$mnt/inplace-2.img" >"$work/seen" 2>/dev/null || true
done) &
pids+=($!)
head -c ${size}M /dev/urandom >"$work/other"
dd if="$work/other" of="$images/inplace.img" bs=1M conv=notrunc status=none || true
same_or_fenced inplace 'overwritten in place'
touch "$work/enough"
wait "${pids[@]}"
pids=()
# truncate(1) does not wait and may be turned away; truncate(2) waits until it may.
truncate -s 1M "$images/truncated.img" 2>"$work/err" || cat "$work/err"
same_or_fenced truncated 'truncate(1)'
python3 -c 'import os, sys; os.truncate(sys.argv[1], 1 << 20)' "$images/truncated.img"
[ "$(stat -c %s "$images/truncated.img")" -eq 1048576 ] || fail 'the image was not truncated'
same_or_fenced truncated 'truncated'
head -c 100000 /dev/urandom >>"$images/append.img" || true
same_or_fenced append 'appended to'
"$goldfs" list "$mnt" >/dev/null || fail 'list with changed images'
umount_goldfs

# In place, while nothing watches.
dd if="$work/other" of="$images/unmounted.img" bs=1M conv=notrunc status=none
mount_goldfs
same_or_fenced unmounted 'overwritten while unmounted'
same move 'after a remount'
same delete 'after a remount'
same touch 'after a remount'
same_or_fenced inplace 'overwritten in place, after a remount'
same_or_fenced truncated 'truncated, after a remount'
same_or_fenced append 'appended to, after a remount'
umount_goldfs

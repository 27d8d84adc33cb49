#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs resize and truncate -s: what is cut off is gone, also where the golden image, a frozen layer or
# the page cache of somebody who has the file open still holds it, and figures follow.
. "$(dirname "$0")/work_lib.sh"

mib=$((1 << 20))
golden base.img 16
mount_goldfs
vm=$mnt/vm

# size FILE BYTES
size()
{
	[ "$(stat -c %s "$1")" -eq "$2" ] || fail "\"$1\" has $(stat -c %s "$1") bytes, not $2"
	[ "$(figure "$1" virtual_bytes)" -eq "$2" ] || fail "the figures of \"$1\" do not say $2"
}

# zeros FILE FROM TO: all of it, through the page cache and around it.
zeros()
{
	cmp -n $(($3 - $2)) -i "$2:0" "$1" /dev/zero || fail "\"$1\" is not zero from $2 to $3"
	dd if="$1" iflag=direct,skip_bytes,count_bytes bs=64k skip=$(($2 / 4096 * 4096)) \
		count=$(($3 - $2 / 4096 * 4096)) status=none |
		cmp -n $(($3 - $2)) -i "$(($2 % 4096)):0" - /dev/zero ||
		fail "\"$1\" is not zero from $2 to $3 with O_DIRECT"
}

# refused STATUS ARGUMENT...: and nothing has changed.
refused()
{
	local want=$1 status=0 before
	shift
	before=$(stat -c %s "$vm")
	"$goldfs" resize "$@" >out 2>err || status=$?
	[ "$status" -eq "$want" ] || fail "resize $* ended with $status, not $want"
	[ ! -s out ] && [ -s err ] || fail "resize $* said nothing, or said it to stdout"
	[ "$(stat -c %s "$vm")" -eq "$before" ] || fail "resize $* changed the size"
}

"$goldfs" clone "$mnt/golden/base.img" "$vm"
dd if=/dev/urandom of="$vm" bs=1M seek=9 count=3 conv=notrunc,fsync status=none
cp "$vm" before
"$goldfs" clone "$vm" "$mnt/other"

# Growing, by a difference and to a size.
"$goldfs" resize "$vm" +1M
size "$vm" $((17 * mib))
zeros "$vm" $((16 * mib)) $((17 * mib))
"$goldfs" resize "$vm" 18M
size "$vm" $((18 * mib))
"$goldfs" resize "$vm" 18M

# What is refused.
refused 1 "$vm" -1M
grep -q -- --force err || fail 'the message does not say what to type'
refused 1 "$vm" 1M
refused 2 --force "$vm" -19M
refused 2 "$vm" +16T
refused 2 "$vm" nothing
refused 2 "$vm"
refused 2 --forse "$vm" 1M
refused 1 "$mnt/golden/base.img" 1M
refused 1 --force "$mnt/golden/base.img" 1M
refused 1 "$images/base.img" 1M
[ "$(stat -c %s "$images/base.img")" -eq $((16 * mib)) ] || fail 'the image was touched'

# Shrinking while it is open, all of it in somebody's page cache; an odd size, within a block.
exec 5<"$vm"
cat "$vm" >/dev/null
odd=$((10 * mib + 1000))
"$goldfs" resize --force "$vm" $odd
size "$vm" $odd
cmp -n $odd "$vm" before || fail 'what is left is not what it was'
[ "$(cat <&5 | wc -c)" -eq $odd ] || fail 'who has it open reads past the end'
"$goldfs" resize "$vm" 16M
zeros "$vm" $odd $((16 * mib))
cmp -n $odd "$vm" before || fail 'what is left changed when it grew'
exec 5<&-

# The others that stand on the same layers, or on the image, are not concerned.
cmp "$mnt/other" before || fail 'the other clone changed'
cmp "$mnt/golden/base.img" "$images/base.img" || fail 'the image changed'

# The same by truncate(1), on blocks of the image and of a frozen layer; then something new there.
truncate -s $((4 * mib)) "$mnt/other"
truncate -s $((12 * mib)) "$mnt/other"
zeros "$mnt/other" $((4 * mib)) $((12 * mib))
cp "$vm" half
printf new | dd of="$mnt/other" bs=1 seek=$((9 * mib + 5)) conv=notrunc status=none
printf new | dd of=want bs=1 seek=5 status=none
cmp -n 4096 -i $((9 * mib)):0 "$mnt/other" <(cat want; head -c 4096 /dev/zero) ||
	fail 'beside what was written anew it is not zero'

# Figures: what was cut off is not owned any more, and a new end within it costs nothing.
"$goldfs" settle "$mnt"
[ "$(figure "$mnt/other" unique_bytes)" -le 8192 ] || fail 'what was cut off is still counted'
[ "$(figure "$vm" data_bytes)" -le $((10 * mib + 4096)) ] || fail 'data behind the end is counted'
size "$vm" $((16 * mib))
truncate -s 0 "$vm"
[ "$(figure "$vm" unique_bytes)" -eq 0 ] && [ "$(figure "$vm" data_bytes)" -eq 0 ] ||
	fail 'an empty file holds something'
"$goldfs" resize "$vm" 16M
zeros "$vm" 0 $((16 * mib))

# All of it is so after the worker died, and after a remount.
kill_worker
zeros "$vm" 0 $((16 * mib))
zeros "$mnt/other" $((4 * mib)) $((9 * mib))
umount_goldfs
"$goldfs" check "$store" >/dev/null || fail 'the store is damaged'
mount_goldfs
size "$vm" $((16 * mib))
zeros "$vm" 0 $((16 * mib))
zeros "$mnt/other" $((4 * mib)) $((9 * mib))
cmp -n $((4 * mib)) "$mnt/other" before || fail 'what was left is not there after a remount'
umount_goldfs

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Disks leave the mount by tar -S, rsync -S, qemu-img convert and cp: the copy is right, and takes
# what the clone has as data, not what it has as size, and at most 1 % more.
. "$(dirname "$0")/work_lib.sh"
need tar rsync qemu-img cp

golden base.img 128
mount_goldfs
cp "$mnt/golden/base.img" "$mnt/vm.img"
# Own data where the image has a hole, zeros over its data, and a hole punched into it.
dd if=/dev/urandom of="$mnt/vm.img" bs=1M seek=4 count=3 conv=notrunc,fsync status=none
dd if=/dev/zero of="$mnt/vm.img" bs=1M seek=8 count=2 conv=notrunc,fsync status=none
fallocate -p -o $((16 * 1048576)) -l $((4 * 1048576)) "$mnt/vm.img"
truncate -s 160M "$mnt/vm.img"
"$goldfs" clone "$mnt/vm.img" "$mnt/second.img"
truncate -s 160M "$mnt/blank.img"
dd if=/dev/urandom of="$mnt/blank.img" bs=1M seek=100 count=5 conv=notrunc,fsync status=none

# check WAY DISK COPY: the copy is right and small enough.
check()
{
	local data took
	data=$(figure "$mnt/$2.img" data_bytes)
	took=$(($(stat -c '%b * %B' "$3")))
	cmp "$mnt/$2.img" "$3" || fail "$1 of $2.img: the copy differs"
	echo "$1 of $2.img: data $data bytes, the copy takes $took"
	[ "$took" -le $((data + data / 100 + 65536)) ] || fail "$1 of $2.img: the copy takes too much"
	rm "$3"
}

# wrote COMMAND...: runs it; $wrote is what it and its children passed to write(2) and the like.
wrote()
{
	local before
	before=$(sed -n 's/^wchar: //p' /proc/$$/io)
	"$@" || fail "$*"
	# Children that ended are in the sum of who waited for them.
	wrote=$(($(sed -n 's/^wchar: //p' /proc/$$/io) - before))
}

limit()
{
	local data
	data=$(figure "$mnt/$2.img" data_bytes)
	echo "$1 of $2.img: data $data bytes, written $wrote"
	[ "$wrote" -le $((data + data / 100 + 65536)) ] || fail "$1 of $2.img: writes too much"
}

for disk in vm second blank; do
	for n in 1 2; do
		wrote cp "$mnt/$disk.img" "$work/copy"
		limit cp $disk
		check cp $disk "$work/copy"
		wrote cp --sparse=always "$mnt/$disk.img" "$work/copy"
		limit 'cp --sparse=always' $disk
		check 'cp --sparse=always' $disk "$work/copy"
		wrote qemu-img convert -f raw -O raw "$mnt/$disk.img" "$work/copy"
		limit 'qemu-img convert' $disk
		check 'qemu-img convert' $disk "$work/copy"
		wrote tar -S -cf "$work/copy.tar" -C "$mnt" $disk.img
		limit 'tar -S' $disk
		tar -S -xf "$work/copy.tar" -C "$work"
		mv "$work/$disk.img" "$work/copy"
		check 'tar -S' $disk "$work/copy"
		rsync -S "$mnt/$disk.img" "$work/copy"
		check 'rsync -S' $disk "$work/copy"
		# The second time around everything stands in its final place.
		"$goldfs" settle "$mnt"
	done
done
# Straight from the image, too.
cp "$mnt/golden/base.img" "$work/copy"
cmp "$images/base.img" "$work/copy" || fail 'cp of a golden image'
umount_goldfs

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# A plain cp inside the mount makes a clone: no data read or written, whatever the image looks
# like; copying out of the mount and archiving see the holes; and only cp, once, is told otherwise.
. "$(dirname "$0")/lib.sh"
setup "$1"
make_image sparse.img $((400 << 30)) 10000
make_image thin.img $((2 << 30)) 100
make_image full.img $((256 << 20))
make_image small.img 1234567
mount_goldfs
cd "$mnt" || fail "cannot enter"

io_of()
{
	awk '/^(rchar|wchar):/ { sum += $2 } END { printf "%.0f\n", sum }' "/proc/$1/io"
}

# quiet SECONDS: waits until the daemon has done nothing in the background for as long.
quiet()
{
	local pid io last=0
	pid=$(worker_pid)
	while io=$(io_of "$pid"); [ $((io - last)) -gt 65536 ]; do
		last=$io
		sleep "$1"
	done
}

# The first clone of an image pins it for as long as it has clones, and the daemon then reads it
# once in the background.
warm_up()
{
	local file
	for file in golden/*.img; do
		cp "$file" "warm-${file##*/}" || fail "cannot clone $file"
	done
}

# clones COMMAND…: no READ and no WRITE request comes of it, and the daemon moves at most 1 MiB.
# (What /proc counts for cp itself holds copy_file_range as if it had copied.)
clones()
{
	local pid io reads writes
	pid=$(worker_pid)
	quiet 0.3
	io=$(io_of "$pid") reads=$(requests read) writes=$(requests write)
	"$@" || fail "$*"
	io=$(($(io_of "$pid") - io))
	reads=$(($(requests read) - reads)) writes=$(($(requests write) - writes))
	echo "$*: $reads reads, $writes writes, $io bytes by the daemon"
	[ $reads -eq 0 ] && [ $writes -eq 0 ] || fail "$*: copied data"
	[ $io -le 1048576 ] || fail "$*: the daemon moved $io bytes"
}

unique()
{
	getfattr --only-values -n user.goldfs.unique_bytes "$1"
}

same_samples()
{
	python3 - "$1" "$2" <<-'END' || fail "$1 and $2 differ"
		import os, random, sys
		a, b = (os.open(n, os.O_RDONLY) for n in sys.argv[1:3])
		size = os.fstat(a).st_size
		assert size == os.fstat(b).st_size
		seed = random.randrange(1 << 32)
		print("seed", seed)
		rng = random.Random(seed)
		step = size // 10000 // 4096 * 4096
		places = [rng.randrange(10000) * step for _ in range(300)]
		places += [rng.randrange(size) for _ in range(300)] + [0, size - 4096]
		for p in places:
		    assert os.pread(a, 8192, p) == os.pread(b, 8192, p), p
	END
}

warm_up
quiet 1.5

# In every way that cp is called; sources are sparse and full images, and clones of them.
clones cp golden/sparse.img web1.img
clones cp web1.img web2.img
clones cp -a golden/sparse.img web3.img
clones cp --remove-destination golden/sparse.img web1.img
mkdir dir dir2
clones cp golden/sparse.img dir
clones cp golden/thin.img thin1.img
clones cp golden/thin.img thin1.img
clones cp golden/thin.img dir
clones cp golden/thin.img dir
clones cp golden/sparse.img golden/full.img golden/small.img dir2
clones cp -r dir2 dir3
clones cp golden/full.img full1.img
clones cp full1.img full2.img
clones cp golden/small.img small1.img
for file in thin1.img dir/thin.img web1.img web2.img web3.img dir/sparse.img full1.img full2.img dir3/small.img; do
	[ "$(unique $file)" = 0 ] || fail "$file has $(unique $file) unique bytes"
done
same_samples web1.img golden/sparse.img
same_samples web2.img golden/sparse.img
same_samples dir3/sparse.img golden/sparse.img
cmp full1.img golden/full.img && cmp full2.img golden/full.img && cmp small1.img golden/small.img &&
	cmp dir3/small.img golden/small.img || fail "clones differ"

# A clone that is being written.
exec 5<>full1.img
dd if=/dev/urandom of=full1.img bs=4096 count=100 seek=7 conv=notrunc status=none
clones cp full1.img full3.img
cmp full1.img full3.img || fail "clone of a written clone"
[ "$(unique full3.img)" = 0 ] || fail "clone of a written clone has unique bytes"
exec 5<&-

# Everybody else sees the truth: before, while cp has the answer, and after.
truth=$(stat -c %b golden/sparse.img)
[ $((truth * 512)) -lt $((1 << 30)) ] || fail "the image looks full: $truth blocks"
for i in 1 2 3; do
	cp golden/sparse.img web4.img &
	while kill -0 $! 2>/dev/null; do
		[ "$(stat -c %b golden/sparse.img)" = "$truth" ] || fail "stat saw something else"
	done
	wait $!
	rm web4.img
done
[ "$(stat -c %b web1.img)" -le 8 ] || fail "a clone costs $(stat -c %b web1.img) blocks"

# Out of the mount, at most the data and 1 %.
limit=$((truth * 512 * 101 / 100 + 65536))
written()
{
	local size=$(($(stat -c %b "$1") * 512))
	echo "$2: $size bytes of at most $limit"
	[ $size -le $limit ] || fail "$2 wrote $size bytes"
}
cp web1.img "$work/out.img" && written "$work/out.img" cp && same_samples "$work/out.img" web1.img
cp golden/sparse.img "$work/out.img" && written "$work/out.img" "cp over a file"
rm "$work/out.img"
cp --sparse=always dir3/sparse.img "$work/out.img" && written "$work/out.img" "cp --sparse=always" &&
	rm "$work/out.img"
cp -r dir "$work/out" && written "$work/out/sparse.img" "cp -r" && rm -r "$work/out"
archive_limit=$((limit + 10000 * 32 + 1048576))
limit=$archive_limit
tar -cSf "$work/out.tar" dir/sparse.img && written "$work/out.tar" "tar -S" && rm "$work/out.tar"
tar -g "$work/snar" -cSf "$work/out.tar" dir && written "$work/out.tar" "tar -S -g" &&
	rm "$work/out.tar"
if command -v qemu-img >/dev/null; then
	qemu-img convert -f raw -O raw web1.img "$work/out.img" && written "$work/out.img" qemu-img &&
		rm "$work/out.img"
fi
if command -v rsync >/dev/null; then # reads all, so a smaller one
	truncate -s 1G thin.img && dd if=/dev/urandom of=thin.img bs=1M count=3 seek=500 conv=notrunc status=none
	limit=$((3 * 1048576 * 101 / 100 + 65536))
	rsync -S thin.img "$work/out.img" && written "$work/out.img" "rsync -S"
	rm "$work/out.img"
fi
# An archive inside the mount, new and overwritten.
limit=$archive_limit
for i in 1 2; do
	tar -cSf in.tar golden/sparse.img || fail "tar inside"
	[ "$(stat -c %s in.tar)" -le $limit ] || fail "tar -S inside wrote $(stat -c %s in.tar) bytes"
done
cd / && umount_goldfs

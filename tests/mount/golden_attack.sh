#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 120 s
#
# Every way to change a golden image in place that hides what it does: with its time of modification
# put back, under another name, through a mapping, by a program that has it open since before. A
# clone reads what it read before, or is refused and the log names the image.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"
command -v python3 >/dev/null || skip "needs python3"

mounted='cat dd truncate mapping rsync dated renamed linked punched appended nonblocking'
unmounted='u-dated u-renamed u-truncated u-mapping u-chmod u-touched'
for name in $mounted $unmounted busy; do
	head -c 3300K /dev/urandom >"images/$name.img"
	# With a hole at the end.
	truncate -s 4M "images/$name.img"
	cp "images/$name.img" "$name.before"
done
mount_goldfs
for name in $mounted $unmounted busy; do
	cp "mnt/golden/$name.img" "mnt/$name.img" || fail "clone"
done

# The sums are there: what comes later is compared with them.
await_sums()
{
	for _ in $(seq 200); do
		[ "$(find "$store/golden" -name '*.sums' -size +64c | wc -l)" -ge \
			"$(find "$store/golden" -links +1 ! -name '*.*' -type f | wc -l)" ] && return
		sleep 0.1
	done
	fail "no sums"
}
await_sums
[ -n "$(find "$store/golden" -links +1 ! -name '*.*' -type f)" ] ||
	skip "needs a store where pins are links"

right=0 refused=0
# intact NAME [must]: its clone reads as before, or (unless "must") is refused with a message.
intact()
{
	if cat "mnt/$1.img" >now 2>/dev/null; then
		cmp now "$1.before" || fail "$1: the clone changed without a word"
		right=$((right + 1))
		return
	fi
	[ "${2-}" != must ] || fail "$1: the clone is refused"
	grep -q "golden image \"$1.img\"" "$store/log" || fail "$1: no message names the image"
	refused=$((refused + 1))
}

# Four bytes at 3 MiB and a bit, which no sample is likely to hit; with the old time.
edit()
{
	python3 - "$1" "$2" <<-'END'
		import mmap, os, sys
		name, how = sys.argv[1:]
		st = os.stat(name)
		place = 3 * 1048576 + 77777
		fd = os.open(name, os.O_RDWR)
		if how == "mapping":
		    with mmap.mmap(fd, 0) as m:
		        os.close(fd)
		        m[place:place + 4] = b"XXXX"
		        m.flush()
		else:
		    os.pwrite(fd, b"XXXX", place)
		    os.close(fd)
		os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns))
	END
}

head -c 4M /dev/urandom >other
cat other >images/cat.img
dd if=other of=images/dd.img bs=4k count=1 seek=800 conv=notrunc status=none
python3 -c 'import os, sys; os.truncate(sys.argv[1], 4096)' images/truncate.img
edit images/mapping.img mapping
if command -v rsync >/dev/null; then
	rsync --inplace --no-whole-file other images/rsync.img
fi
edit images/dated.img write
mv images/renamed.img images/.elsewhere && edit images/.elsewhere write &&
	mv images/.elsewhere images/renamed.img
ln images/linked.img second-name && edit second-name write && rm second-name
fallocate -p -o 1M -l 1M images/punched.img 2>/dev/null
head -c 100 /dev/urandom >>images/appended.img
# One that does not wait, again and again: it slips in when the lease is given back, or never.
python3 - images/nonblocking.img <<-'END'
	import os, sys
	for i in range(300):
	    try:
	        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
	    except BlockingIOError:
	        continue
	    os.pwrite(fd, b"XXXX", 3 * 1048576 + 77777)
	    os.close(fd)
	    break
END
for name in $mounted; do
	intact "$name"
done
# A program that has an image open for writing: no clone of it yet.
python3 - images/fresh.img mnt "$goldfs" <<-'END' || fail "an image that is open for writing was cloned"
	import mmap, os, subprocess, sys
	with open(sys.argv[1], "wb") as f:
	    f.write(os.urandom(100000))
	fd = os.open(sys.argv[1], os.O_RDWR)
	m = mmap.mmap(fd, 0)
	os.close(fd)  # the mapping is as good as a descriptor
	r = subprocess.run([sys.argv[3], "clone", sys.argv[2] + "/golden/fresh.img",
	                    sys.argv[2] + "/fresh.img"], stderr=subprocess.PIPE)
	sys.exit(r.returncode == 0)
END
# chmod and mv change nothing, and are noted: the next mount has nothing to compare.
chmod 600 images/u-chmod.img && mv images/u-chmod.img images/moved.img
for _ in $(seq 35); do
	sleep 0.1
done
umount_goldfs

# While nothing watches.
edit images/u-dated.img write
mv images/u-renamed.img images/.x && edit images/.x write && mv images/.x images/u-renamed.img
python3 - images/u-truncated.img <<-'END'
	import os, sys
	st = os.stat(sys.argv[1])
	data = open(sys.argv[1], "rb").read()
	os.truncate(sys.argv[1], 1 << 20)
	os.truncate(sys.argv[1], len(data))
	os.utime(sys.argv[1], ns=(st.st_atime_ns, st.st_mtime_ns))
END
edit images/u-mapping.img mapping
touch -d '2001-02-03 04:05:06' images/u-touched.img
compared=$(grep -c 'was touched while not mounted' "$store/log")
mount_goldfs
for name in $unmounted; do
	case $name in
	u-chmod | u-touched) intact $name must ;;
	*) intact $name ;;
	esac
done
[ "$(($(grep -c 'was touched while not mounted' "$store/log") - compared))" -le 5 ] ||
	fail "images were compared that nobody touched: $(grep 'was touched' "$store/log")"
umount_goldfs

# Somebody is writing to it at the very moment of the mount.
exec 9<>images/busy.img
mount_goldfs
printf XXXX >&9
exec 9>&-
intact busy
grep -q 'golden image "busy.img" is open for writing' "$store/log" || fail "busy: no message"
umount_goldfs
mount_goldfs
intact busy
echo "$right read on, $refused were refused"
[ "$refused" -ge 4 ] || fail "no change was found"

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 240 s
# Needs: losetup mkfs.ext4
#
# A patch that is rolled out: the same package is installed in the file systems of several clones. They
# are ext4 in the image, mounted by loop devices as a guest would, so that each has metadata and times
# of its own; the package's files are those of a package of this machine, or of PACKAGE.
#
# What each file system writes for itself, its journal above all, is its own: some MiB for hundreds of
# files, so the package is one of few and large files.
#
# Environment: CLONES (4; 20 for the long form), PACKAGE (of dpkg; the first of some that is there).
. "$(dirname "$0")/work_lib.sh"
need mkfs.ext4 losetup dpkg-query tar
clones=${CLONES:-4} package=${PACKAGE:-}

physical()
{
	"$goldfs" df -j "$mnt" | jq '.store | .physical_bytes - .journal_bytes'
}

# size_of PACKAGE: KiB of what is installed, 0: it is not.
size_of()
{
	dpkg-query -W -f '${db:Status-Status} ${Installed-Size}\n' "$1" 2>/dev/null |
		awk '$1 == "installed" { print $2; found = 1 } END { if (!found) print 0 }'
}

if [ -z "$package" ]; then
	for one in libllvm14 libllvm15 cpp-12 gcc-12 cpp-14-x86-64-linux-gnu gcc-14-x86-64-linux-gnu git \
		perl-modules-5.36 perl-modules-5.40; do
		[ "$(size_of "$one")" -lt 16000 ] || { package=$one; break; }
	done
fi
[ -n "$package" ] && [ "$(size_of "$package")" -gt 0 ] || skip "needs a package that is installed"
dpkg-query -L "$package" | while read -r file; do
	[ -f "$file" ] && [ ! -L "$file" ] && echo "$file"
done >files || true
tar -cf new.tar -P -T files 2>/dev/null || true
# The version that is replaced: the same files, with other content.
mkdir old
tar -xf new.tar -C old --absolute-names --transform 's,^/,,'
find old -type f -exec gzip -1 -n {} +
find old -name '*.gz' -type f | while read -r file; do
	mv "$file" "${file%.gz}"
done
echo "$package: $(wc -l <files) files, $(stat -c %s new.tar) bytes"

truncate -s 512M "$images/.disk.img"
mkfs.ext4 -q -F "$images/.disk.img"
attach "$images/.disk.img"
mkdir root
mount "$loop_device" root
cp -r old/. root/
umount root
detach "$loop_device"
mv "$images/.disk.img" "$images/disk.img"

# install FILE: as dpkg does it: beside the old file, synced, renamed over it.
install()
{
	attach "$1"
	mount "$loop_device" root
	tar -xf new.tar -C root --absolute-names --transform 's,^/,,;s,$,.dpkg-new,' --unlink-first
	find root -name '*.dpkg-new' -type f | while read -r new; do
		mv -f "$new" "${new%.dpkg-new}"
	done
	date +%s%N >root/installed
	sync -f root
	umount root
	detach "$loop_device"
}

mount_goldfs
"$goldfs" clone -n "$clones" "$mnt/golden/disk.img" "$mnt/%d.img"
"$goldfs" settle "$mnt"
empty=$(physical)
install "$mnt/1.img"
"$goldfs" settle "$mnt"
one=$(($(physical) - empty))
[ $one -ge $((1 << 20)) ] || fail "the package takes $one bytes only"
for n in $(seq 2 "$clones"); do
	install "$mnt/$n.img"
done
"$goldfs" settle "$mnt"
all=$(($(physical) - empty))
echo "one clone: $one bytes; $clones clones: $all, at most $((one * 13 / 10))"
[ $all -le $((one * 13 / 10)) ] || fail "$clones clones take $all bytes, one takes $one"

# Each has it.
for n in $(seq "$clones"); do
	attach "$mnt/$n.img" --read-only
	mount -o ro,noload "$loop_device" root
	while read -r file; do
		cmp -s "$file" "root$file" || fail "clone $n has another $file"
	done <files
	umount root
	detach "$loop_device"
done

# What removing some of them frees is what was said.
predicted=$("$goldfs" stat -j --if-removed "$mnt"/[1-3].img | jq '.if_removed_bytes')
before=$(physical)
rm "$mnt"/[1-3].img
"$goldfs" settle "$mnt"
fell=$((before - $(physical)))
echo "removing three was to free $predicted bytes, and freed $fell"
[ $((fell - predicted)) -le $((1 << 20)) ] && [ $((predicted - fell)) -le $((1 << 16)) ] ||
	fail "$predicted bytes were predicted, $fell freed"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs clone: names, folders, patterns, all or nothing, replacing, owner and permissions.
. "$(dirname "$0")/lib.sh"
setup "$1"
failures=0

wrong()
{
	echo "line ${BASH_LINENO[-2]}: $*"
	failures=$((failures + 1))
}

# fails PATTERN COMMAND...: the command ends with status 1, one line that matches, and no output.
fails()
{
	local pattern=$1 status
	shift
	"$@" >out 2>err
	status=$?
	if [ $status -ne 1 ] || [ -s out ] || [ "$(wc -l <err)" -ne 1 ] ||
		! grep -q "^goldfs: .*$pattern" err; then
		wrong "$* gave status $status: $(cat out err)"
	fi
}

works()
{
	"$@" >out 2>err || wrong "$* failed: $(cat err)"
}

truncate -s 64M images/sparse.img
dd if=/dev/urandom of=images/debian.img bs=1M count=4 status=none
head -c 1000 /dev/urandom >>images/debian.img
chmod 640 images/debian.img
printf 'QFI\xfb\0\0\0\3' >images/"it's.qcow2"
truncate -s 1M images/"it's.qcow2"
printf 'QFI\xfb\0\0\0\3' >images/odd.img
truncate -s 1M images/odd.img
mkdir images/sub
cp images/debian.img images/sub/other.img
mount_goldfs
golden=mnt/golden/debian.img
mkdir mnt/dir mnt/vdi

# One, several, into a folder, by way of symbolic links.
works "$goldfs" clone $golden mnt/a.img
[ ! -s out ] || wrong "clone printed something"
cmp images/debian.img mnt/a.img || wrong "the clone differs"
works "$goldfs" clone $golden mnt/b.img mnt/dir/c.img mnt/dir
for clone in b.img dir/c.img dir/debian.img; do
	cmp images/debian.img mnt/$clone || wrong "$clone differs"
done
ln -s dir mnt/link
works "$goldfs" clone mnt/link/c.img mnt/link/d.img
cmp images/debian.img mnt/dir/d.img || wrong "the clone by way of a link differs"
(cd mnt/dir && "$goldfs" clone ../golden/sub/other.img . e.img) || wrong "relative paths"
cmp images/debian.img mnt/dir/other.img || wrong "the clone into . differs"

# A clone of a clone has what was written just before, also through a mapping.
printf changed | dd of=mnt/a.img bs=1 seek=5000 conv=notrunc status=none
works "$goldfs" clone mnt/a.img mnt/a2.img
cmp mnt/a.img mnt/a2.img || wrong "the clone of a clone differs"
printf again | dd of=mnt/a.img bs=1 seek=5000 conv=notrunc status=none
cmp -s mnt/a.img mnt/a2.img && wrong "the clone of a clone follows its source"

# Patterns.
works "$goldfs" clone -n 12 $golden 'mnt/vdi/d%03d-100%%.img'
[ "$(ls mnt/vdi | wc -l)" -eq 12 ] || wrong "not 12 clones: $(ls mnt/vdi)"
[ -e mnt/vdi/d001-100%.img ] && [ -e mnt/vdi/d012-100%.img ] || wrong "names: $(ls mnt/vdi)"
cmp images/debian.img mnt/vdi/d012-100%.img || wrong "a clone by pattern differs"
works "$goldfs" clone -n 2 --start 13 $golden 'mnt/vdi/d%03d-100%%.img'
[ -e mnt/vdi/d014-100%.img ] || wrong "--start: $(ls mnt/vdi)"
(cd mnt/vdi && "$goldfs" clone -n 1 --start 0 ../golden/debian.img x%d) || wrong "clone with cd mnt/vdi"
[ -e mnt/vdi/x0 ] || wrong "a pattern without a folder"
fails 'not in a goldfs mount' "$goldfs" clone -n 1 $golden x%d

# All or nothing.
fails 'd013-100%.img" exists already, --force' \
	"$goldfs" clone -n 10 --start 13 $golden 'mnt/vdi/d%03d-100%%.img'
[ ! -e mnt/vdi/d015-100%.img ] || wrong "a failed batch left something"
fails 'a.img" exists already' "$goldfs" clone $golden mnt/new1 mnt/a.img mnt/new2
[ ! -e mnt/new1 ] && [ ! -e mnt/new2 ] || wrong "a failed clone left something"
fails 'named twice' "$goldfs" clone $golden mnt/new1 mnt/./new1
fails 'no such file' "$goldfs" clone $golden mnt/nowhere/x
fails 'no such file' "$goldfs" clone mnt/golden/nothing mnt/x
fails 'not a directory' "$goldfs" clone $golden mnt/a.img/x
fails 'directory' "$goldfs" clone mnt/dir mnt/x
fails 'read-only' "$goldfs" clone $golden mnt/golden/x.img
fails 'not in a goldfs mount' "$goldfs" clone $golden /tmp/goldfs-test-x
fails 'not in a goldfs mount' "$goldfs" clone images/debian.img mnt/x
for name in .goldfs .snapshots; do
	fails "$name" "$goldfs" clone $golden mnt/$name
done
long=$(printf '%0256d' 0)
fails 'too long' "$goldfs" clone $golden mnt/"$long"
fails 'too long' "$goldfs" clone -n 1 $golden mnt/"${long:0:250}%09d"
[ "$(ls mnt | wc -l)" -ge 1 ] && [ ! -e mnt/x ] || wrong "something was made: $(ls mnt)"

# Replacing.
works "$goldfs" clone --force mnt/golden/sparse.img mnt/b.img
[ "$(stat -c %s mnt/b.img)" -eq 67108864 ] || wrong "--force did not replace"
fails 'directory' "$goldfs" clone --force $golden mnt/vdi/x0/
mkdir mnt/vdi/debian.img
fails 'directory' "$goldfs" clone --force $golden mnt/vdi
fails 'cannot replace' "$goldfs" clone --force mnt/a.img mnt/a.img

# Images that are not raw.
quoted="it'\\\\''s"
fails "type: qemu-img convert -O raw '.*/images/$quoted.qcow2' '.*/images/$quoted.img' (--opaque" \
	"$goldfs" clone "mnt/golden/it's.qcow2" mnt/q.img
fails 'type: qemu-img convert -O raw .*/images/odd.img .*/images/odd.img.converted.img ' \
	"$goldfs" clone mnt/golden/odd.img mnt/q.img
works "$goldfs" clone --opaque "mnt/golden/it's.qcow2" mnt/q.img
cmp "images/it's.qcow2" mnt/q.img || wrong "the opaque clone differs"

# Names that are not UTF-8, or not nice.
for name in $'b\xfcro' $'a\nb' '%d' 'a b' '-x'; do
	works "$goldfs" clone -- $golden mnt/dir/"$name"
	cmp images/debian.img mnt/dir/"$name" || wrong "a name with special characters"
	works "$goldfs" clone -- mnt/dir/"$name" mnt/dir/"$name.2"
	works "$goldfs" clone -n 2 -- mnt/dir/"$name" mnt/dir/"${name/\%/%%}.n%d"
	cmp images/debian.img mnt/dir/"$name.2" || wrong "a pattern with special characters"
done

# Permissions as cp would give them.
(umask 027 && "$goldfs" clone --force $golden mnt/p.img) || wrong "clone with umask 027"
[ "$(stat -c %a mnt/p.img)" = 640 ] || wrong "mode is $(stat -c %a mnt/p.img)"
chmod 4777 mnt/p.img
(umask 022 && "$goldfs" clone --force mnt/p.img mnt/p2.img) || wrong "clone with umask 022"
[ "$(stat -c %a mnt/p2.img)" = 755 ] || wrong "mode is $(stat -c %a mnt/p2.img)"

# A thousand at once, and there after a remount.
mkdir mnt/many
start=$(date +%s%N)
works "$goldfs" clone -n 1000 $golden mnt/many/desk%04d.img
took=$((($(date +%s%N) - start) / 1000000))
echo "1000 clones: $took ms"
umount_goldfs
mount_goldfs
[ "$(ls mnt/many | wc -l)" -eq 1000 ] || wrong "after the remount: $(ls mnt/many | wc -l) clones"
cmp images/debian.img mnt/many/desk0777.img || wrong "a clone differs after the remount"

[ $failures -eq 0 ] || fail "$failures checks"

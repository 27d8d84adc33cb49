#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The tree below a mount behaves as one expects of a file system, and as interface.md pins it.
. "$(dirname "$0")/lib.sh"
setup "$1"
make_image base.img 1048576
mkdir "$images/linux" && cp "$images/base.img" "$images/linux/deb.img"
echo hidden >"$images/.secret"
ln -s base.img "$images/latest.img"
ln -s /etc/passwd "$images/outside.img"
mount_goldfs
cd "$mnt" || fail "cannot enter"

# What is there.
[ "$(findmnt -n -o FSTYPE,SOURCE "$mnt" | tr -s ' ')" = "fuse.goldfs $images" ] ||
	fail "findmnt shows $(findmnt -n "$mnt")"
[ "$(ls -A | sort | tr '\n' ' ')" = ".goldfs .snapshots golden " ] || fail "root: $(ls -A)"
[ "$(ls -A golden | sort | tr '\n' ' ')" = "base.img latest.img linux " ] || fail "$(ls -A golden)"
[ "$(ls -a . | head -n 2 | tr '\n' ' ')" = ". .. " ] || fail "no . and .."
cmp golden/linux/deb.img "$images/base.img" || fail "golden content"
cmp golden/latest.img "$images/base.img" || fail "link inside the images folder"

# Golden images are read-only, for root too.
errno_of EROFS touch golden/new
errno_of EROFS dd if=/dev/zero of=golden/base.img bs=512 count=1 conv=notrunc
errno_of EROFS rm golden/base.img
errno_of EROFS mv golden/base.img golden/other.img
errno_of EROFS truncate -s 0 golden/base.img
errno_of EROFS chmod 600 golden/base.img

# Reserved names.
for name in golden .goldfs .snapshots; do
	errno_of EPERM mv "$name" elsewhere
	errno_of EPERM rmdir "$name"
	mkdir folder
	errno_of EPERM mv -T folder "$name"
	rmdir folder
done
errno_of EPERM touch .goldfs/new
errno_of EPERM rm .goldfs/stats.json
mkdir sub && touch sub/golden && rm -r sub || fail "the names are reserved in the root only"

# What cannot be made.
touch a
errno_of EPERM ln a b
errno_of EPERM mknod dev c 1 3
errno_of EPERM mkfifo fifo
rm a

# Names of 255 bytes, not of 256, any bytes.
long=$(printf 'n%.0s' {1..255})
touch "$long" && [ -e "$long" ] && rm "$long" || fail "name of 255 bytes"
errno_of ENAMETOOLONG touch "${long}n"
odd=$'a b\n\xff"\\'
echo odd >"$odd" && [ "$(cat "$odd")" = odd ] && rm "$odd" || fail "odd name"

# Folders, rename, rename over, exchange, unlink while open.
mkdir -p d/e && touch d/e/f
errno_of ENOTEMPTY rmdir d/e
mv d/e/f d/g && mv d moved && [ -e moved/g ] || fail "rename"
echo one >one && echo two >two
mv one two && [ "$(cat two)" = one ] && [ ! -e one ] || fail "rename over"
echo one >one
python3 - <<'END' || fail "renameat2 flags"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    r = libc.renameat2(-100, a, -100, b, flags)
    return ctypes.get_errno() if r < 0 else 0
assert rename(b"one", b"two", 1) == errno.EEXIST
assert rename(b"moved", b"two", 2) == 0
assert os.path.isdir("two") and os.path.isfile("moved")
assert rename(b"moved", b"two", 2) == 0
END
exec 5<>two && rm two && echo more >&5 && [ "$(stat -Lc %h /dev/fd/5)" = 0 ] || fail "unlink while open"
[ "$(cat /proc/$$/fd/5)" = "$(printf 'more')" ] || fail "content after unlink: $(cat /proc/$$/fd/5)"
exec 5<&-
rm -r moved one

# Symbolic links, modes, owners, times.
ln -s golden/base.img link && [ "$(readlink link)" = golden/base.img ] || fail "symlink"
cmp link "$images/base.img" || fail "through a symlink"
rm link
touch f && chmod 4751 f && [ "$(stat -c %a f)" = 4751 ] || fail "chmod"
chown 12:34 f && [ "$(stat -c '%u:%g' f)" = 12:34 ] || fail "chown"
[ "$(stat -c %a f)" = 751 ] || fail "chown keeps set-user-id"
touch -d '2001-02-03 04:05:06.123456789 UTC' f
[ "$(stat -c %.9Y f)" = 981173106.123456789 ] || fail "times: $(stat -c %.9Y f)"
chmod 6777 f && as_nobody sh -c 'echo x >>f' && [ "$(stat -c %a f)" = 777 ] ||
	fail "a write by another user keeps set-id bits: $(stat -c %a f)"
chmod 6777 f && as_nobody truncate -s 5 f && [ "$(stat -c %a f)" = 777 ] ||
	fail "truncation keeps set-id bits: $(stat -c %a f)"
mkdir shared && chgrp 77 shared && chmod 2777 shared && mkdir shared/d && touch shared/f
[ "$(stat -c '%g %a' shared/d)" = '77 2755' ] && [ "$(stat -c %g shared/f)" = 77 ] ||
	fail "set-group-id of a folder"
rm -r shared

# Others may do what the modes say.
chmod 600 f
as_nobody cat f 2>/dev/null && fail "mode 600 does not keep others out"
as_nobody touch newfile 2>/dev/null && fail "mode 755 does not keep others out"
mkdir open && chmod 1777 open && as_nobody touch open/theirs || fail "mode 1777 keeps others out"
[ "$(stat -c %u open/theirs)" = 65534 ] || fail "owner of a new file"
rm -r open

# Extended attributes.
setfattr -n user.note -v hello f && [ "$(getfattr --only-values -n user.note f)" = hello ] ||
	fail "xattr"
[ "$(getfattr f | sed -n 's/^user/user/p')" = user.note ] || fail "xattr list: $(getfattr f)"
setfattr -x user.note f && [ -z "$(getfattr f)" ] || fail "xattr removal"
errno_of EOPNOTSUPP setfattr -n security.foo -v x f
errno_of EOPNOTSUPP setfattr -n system.posix_acl_access \
	-v 0x0200000001000600ffffffff04000400ffffffff20000400ffffffff f
errno_of EOPNOTSUPP setfattr -n trusted.foo -v x f
errno_of EPERM setfattr -n user.goldfs.unique_bytes -v 0 f

# The virtual tree.
python3 -m json.tool .goldfs/stats.json >/dev/null || fail "stats.json"
grep -q '^goldfs_' .goldfs/metrics || fail "metrics"
as_nobody cat .goldfs/stats.json >/dev/null || fail "stats.json is for everyone"
exec 6<>.goldfs/control
echo garbage >&6 && IFS= read -r reply <&6
exec 6<&-
[[ $reply == '{'* ]] || fail "control answered \"$reply\""

# All of it is there after another mount.
mkdir keep && echo kept >keep/file && ln -s x keep/link && setfattr -n user.k -v v keep/file
cd / && umount_goldfs && mount_goldfs && cd "$mnt" || fail "mount again"
[ "$(cat keep/file)" = kept ] && [ "$(readlink keep/link)" = x ] &&
	[ "$(getfattr --only-values -n user.k keep/file)" = v ] || fail "not there after a mount"
[ "$(stat -c %a f)" = 600 ] || fail "mode not there after a mount"
cd / && umount_goldfs

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 120 s
#
# A folder of images that users may write to, under root's daemon: links that lead out, special
# files, strange names, very many files, and names that change while they are looked at. Nobody
# reads through it what he could not read himself.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v setpriv >/dev/null || skip "needs setpriv"
[ "$(id -u)" -eq 0 ] || skip "needs root"
setpriv --reuid=1001 --regid=1001 --clear-groups test -x "$work" ||
	skip "needs a folder for temporary files that other users may enter"
as_user()
{
	setpriv --reuid=1001 --regid=1001 --clear-groups "$@"
}
cp "$goldfs" bin && chmod 755 bin && goldfs=$work/bin

echo "the secret of root" >secret && chmod 600 secret
head -c 8192 /dev/urandom >images/open.img
{ echo "the secret of another"; head -c 8000 /dev/zero; } >images/private.img
chown 1002:1002 images/private.img && chmod 600 images/private.img
mkdir images/user images/shut && chown 1001:1001 images/user && chmod 700 images/shut
cp images/open.img images/shut/x.img
mkfifo images/fifo.img
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind("images/socket.img")'
mknod images/device.img b 7 200 2>/dev/null
mknod images/null.img c 1 3 2>/dev/null
# Links, of root and of the user.
for maker in '' as_user; do
	to=images/user/${maker:-root}
	$maker ln -s "$work/secret" "$to-out.img"
	$maker ln -s ../../secret "$to-up.img"
	$maker ln -s /proc/self/environ "$to-proc.img"
	$maker ln -s "$store/superblock" "$to-store.img"
	$maker ln -s "$to-loop.img" "$to-loop.img" 2>/dev/null
	$maker ln -s .. "$to-circle"
	$maker ln -s nothing "$to-dangling.img"
done
# What a user links to must be his own.
as_user ln -s ../private.img images/user/theirs.img
as_user ln -s ../shut/x.img images/user/shut.img
# Names.
long=$(printf 'x%.0s' $(seq 255))
for name in $'new\nline.img' $'\xff\xfe.img' "$long" '-rf' ' ' '%d' '"quoted"' $'\033[31m.img'; do
	cp images/open.img "images/user/$name" || fail "cannot make $name"
done
mkdir images/many
python3 -c 'for i in range(2000): open("images/many/%d.img" % i, "w").close()'

mount_goldfs
find mnt/golden -name '*-out.img' -o -name '*-up.img' -o -name '*-proc.img' -o -name '*-store.img' \
	-o -name '*-loop.img' -o -name '*-circle' -o -name '*-dangling.img' -o -name theirs.img \
	-o -name shut.img -o -name 'fifo*' -o -name 'socket*' -o -name 'device*' -o -name 'null*' >shown
[ ! -s shown ] || fail "shown: $(cat shown)"
grep -rsq 'the secret of root' mnt/golden && fail "a link led out"
for name in root-out.img as_user-out.img as_user-up.img as_user-store.img; do
	cat "mnt/golden/user/$name" 2>/dev/null && fail "$name is read by its name"
done
[ "$(find mnt/golden/many -type f | wc -l)" -eq 2000 ] || fail "not all of many files"
for name in $'new\nline.img' $'\xff\xfe.img' "$long" '-rf' ' ' '%d' '"quoted"' $'\033[31m.img'; do
	cmp "mnt/golden/user/$name" images/open.img || fail "cannot read '$name'"
	cp -- "mnt/golden/user/$name" "mnt/$name" || fail "cannot clone '$name'"
done
"$goldfs" list mnt/golden/user -j | jq -e . >/dev/null || fail "no JSON with strange names"
"$goldfs" list mnt/golden/user >table || fail "no table with strange names"
! grep -q $'\033' table || fail "a name drives the terminal"
! grep -q $'\033' "$store/log" || fail "a name drives the terminal from the log"
as_user cat mnt/golden/private.img >/dev/null 2>&1 && fail "an image of another is read"
as_user ls mnt/golden/shut >/dev/null 2>&1 && fail "a closed folder is listed"
as_user "$goldfs" list mnt/golden 2>/dev/null | grep -q shut/ && fail "a closed folder is listed"

# Names that change while they are opened: what is behind them must never come out. The user's own
# file, a link to root's secret, and the private image (that somebody moves there) take turns.
mkdir -m 777 mnt/u
cat >swap.py <<-'END'
	import ctypes, os, sys
	libc = ctypes.CDLL(None, use_errno=True)
	def exchange(a, b):
	    libc.renameat2(-100, a.encode(), -100, b.encode(), 2)
	open("images/user/.own", "wb").write(b"mine" * 2048)
	os.chown("images/user/.own", 1001, 1001)
	os.symlink(sys.argv[1] + "/secret", "images/user/.link")
	os.chown("images/user/.link", 1001, 1001, follow_symlinks=False)
	os.link("images/private.img", "images/user/.private")
	os.rename("images/user/.own", "images/user/swap.img")
	while not os.path.exists("enough"):
	    exchange("images/user/swap.img", "images/user/.private")
	    exchange("images/user/swap.img", "images/user/.link")
	    exchange("images/user/swap.img", "images/user/.private")
	    exchange("images/user/swap.img", "images/user/.link")
END
python3 swap.py "$work" &
sleep 0.2
cat >reader.py <<-'END'
	import json, os, shutil, sys, time
	os.setgroups([]); os.setgid(1001); os.setuid(1001)
	mnt, end, n, bad, got = sys.argv[1], time.time() + 3, 0, 0, 0
	def look(path):
	    global got
	    try:
	        data = open(path, "rb").read(100)
	    except OSError:
	        return 0
	    got += 1
	    return b"secret" in data
	while time.time() < end:
	    n += 1
	    bad += look(mnt + "/golden/user/swap.img")
	    target = "u/c%d.img" % n
	    fd = os.open(mnt + "/.goldfs/control", os.O_RDWR)
	    os.write(fd, json.dumps({"verb": "clone", "source": "golden/user/swap.img",
	                             "targets": [target], "umask": 0}).encode())
	    done = json.loads(os.read(fd, 65536))["status"] == 0
	    os.close(fd)
	    if done:
	        bad += look(mnt + "/" + target)
	        os.unlink(mnt + "/" + target)
	    try:
	        shutil.copyfile(mnt + "/golden/user/swap.img", mnt + "/" + target)
	        bad += look(mnt + "/" + target)
	    except OSError:
	        pass
	    if os.path.exists(mnt + "/" + target):
	        os.unlink(mnt + "/" + target)
	print(n, "rounds,", got, "read,", bad, "secrets")
	sys.exit(bad > 0 or got == 0)
END
python3 reader.py "$work/mnt" || { touch enough; fail "a secret came out"; }
touch enough
wait
umount_goldfs

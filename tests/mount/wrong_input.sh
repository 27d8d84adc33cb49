#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What an administrator can get wrong: each gives one clear line on stderr, nothing on stdout, the
# right exit status, and changes nothing.
. "$(dirname "$0")/lib.sh"
setup "$1"
make_image base.img 1048576
cd "$work" || fail "cannot enter"

# What the images, the store and the mount point look like.
picture()
{
	find "$images" "$store" "$work/other" "$work/elsewhere" -printf '%P %y %s %T@\n' 2>/dev/null |
		grep -v '^\(log\|lock\) ' | sort
	grep -c " $work/" /proc/self/mountinfo
}

# wrong STATUS PATTERN COMMAND…
wrong()
{
	local wanted=$1 pattern=$2 status before after
	shift 2
	before=$(picture)
	"$@" >"$work/stdout" 2>"$work/stderr"
	status=$?
	after=$(picture)
	echo "$(cat "$work/stderr")"
	[ $status -eq "$wanted" ] || fail "$*: status $status, not $wanted: $(cat "$work/stderr")"
	[ ! -s "$work/stdout" ] || fail "$*: something on stdout"
	[ "$(wc -l <"$work/stderr")" -eq 1 ] || fail "$*: not one line: $(cat "$work/stderr")"
	grep -q '^goldfs: [^A-Z].*[^.]$' "$work/stderr" || fail "$*: style"
	grep -qi -- "$pattern" "$work/stderr" || fail "$*: does not say \"$pattern\""
	[ "$before" = "$after" ] || fail "$*: changed something: $(diff <(echo "$before") <(echo "$after"))"
}

# Usage.
wrong 2 'neither a verb nor' "$goldfs" frobnicate
wrong 2 'neither a verb nor' "$goldfs" frobnicate images mnt
wrong 2 'mount point are needed' "$goldfs" mount images
wrong 2 'mount point are needed' "$goldfs" images mnt more
wrong 2 'unknown option' "$goldfs" -q images mnt
wrong 2 'unknown mount option "sotre' "$goldfs" -o sotre=x images mnt
wrong 2 'threads' "$goldfs" -o threads=0 images mnt
wrong 2 'journal-size' "$goldfs" -o journal-size=big images mnt
wrong 2 'dedup' "$goldfs" -o dedup=maybe images mnt
wrong 2 'busy-poll' "$goldfs" -o busy-poll=20 images mnt
wrong 2 'needs a value' "$goldfs" -o store images mnt
wrong 2 'takes no value' "$goldfs" -o ro=1 images mnt
wrong 2 'needed' "$goldfs" umount
wrong 2 'unknown option' "$goldfs" umount -x mnt

# Folders.
touch file
wrong 1 'no such file' "$goldfs" ./missing mnt
wrong 1 'no such file' "$goldfs" images missing
wrong 1 'not a folder' "$goldfs" file mnt
wrong 1 'not a folder' "$goldfs" images file
wrong 1 'not a folder' "$goldfs" -o store=file images mnt
wrong 1 'no such file' "$goldfs" -o store=missing/store images mnt
wrong 1 'cannot be the images folder' "$goldfs" -o store=images images mnt
mkdir images/below other other/below
wrong 1 'inside the images' "$goldfs" images images/below
wrong 1 'inside the images' "$goldfs" images images
wrong 1 'inside the store' "$goldfs" -o store=other images other/below
wrong 1 'inside the store' "$goldfs" -o store=other images other
rmdir images/below other/below
wrong 1 'would hide' "$goldfs" images .
echo something >other/thing
wrong 1 'not empty' "$goldfs" -o store=other images mnt
wrong 1 'does not make one' "$goldfs" -o ro,store=newstore images mnt
wrong 1 'not the mount point' "$goldfs" umount mnt
wrong 1 'not the mount point' "$goldfs" umount /proc
wrong 1 'no such file' "$goldfs" umount missing
wrong 1 'log' "$goldfs" -o "store=$store,log=/missing/log" images mnt
chmod 700 images && as_nobody true && wrong 1 'permission denied' as_nobody "$goldfs" images mnt
chmod 755 images

# A store on a read-only file system.
mkdir elsewhere
extra_mounts+=("$work/elsewhere")
if mount -t tmpfs -o size=64m tmpfs elsewhere; then
	mkdir elsewhere/store
	mount -o remount,ro elsewhere
	wrong 1 'read-only file system' "$goldfs" -o store=elsewhere/store images mnt
	wrong 1 'read-only file system' "$goldfs" -o store=elsewhere/new images mnt
	umount elsewhere
fi

# In use. What the mount itself has to write comes first.
mount_goldfs
"$goldfs" settle mnt || fail "settle"
wrong 1 'already mounted' "$goldfs" -o "store=$store" images mnt
wrong 1 "in use by another mount (pid $(daemon_pid))" "$goldfs" -o "store=$store" images elsewhere
touch "$mnt/here"
exec 5<"$mnt/here"
wrong 1 "in use by .*(pid $$)" "$goldfs" umount mnt
exec 5<&-

# Control fed garbage.
for garbage in '' '{' '[]' '{"a":1}' "$(head -c 3000 /dev/urandom | base64 -w 0)"; do
	exec 6<>"$mnt/.goldfs/control"
	printf '%s\n' "$garbage" >&6
	IFS= read -r reply <&6
	exec 6<&-
	python3 -c 'import json, sys; assert isinstance(json.loads(sys.argv[1]), dict)' "$reply" ||
		fail "control answered \"$reply\""
done
umount_goldfs

# A store of a newer format, and damaged ones. The superblock has a copy, which counts only while the
# superblock itself cannot be read.
cp -a "$store/superblock" saved
printf '\x63' | dd of="$store/superblock" bs=1 seek=8 conv=notrunc status=none
cp "$store/superblock" "$store/superblock.copy"
wrong 1 'newer\|damaged' "$goldfs" -o "store=$store,log=$store/log" images mnt
head -c 100 /dev/urandom >"$store/superblock"
head -c 100 /dev/urandom >"$store/superblock.copy"
wrong 1 'damaged' "$goldfs" -o "store=$store,log=$store/log" images mnt
cp -a saved "$store/superblock.copy"
mount_goldfs
[ -e "$mnt/here" ] || fail "the store lost a file"
umount_goldfs
cp -a saved "$store/superblock"
mount_goldfs
[ -e "$mnt/here" ] || fail "the store lost a file"
umount_goldfs

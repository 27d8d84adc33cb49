#!/bin/bash
# SPDX-License-Identifier: MIT
#
# An ordinary user mounts his own images with fusermount3: everything works, restarts too, and
# nobody else gets in.
# All of it in a mount namespace of its own, where /dev/fuse is open to everyone and /etc/fuse.conf
# says what the case at hand needs, whatever this machine has; the user exists there only.
if [ "${USER_MOUNT_INSIDE:-}" != yes ] && [ "$(id -u)" -eq 0 ] &&
	unshare -m --propagation private true 2>/dev/null; then
	USER_MOUNT_INSIDE=yes exec unshare -m --propagation private "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"
setup "$1"
[ "${USER_MOUNT_INSIDE:-}" = yes ] || skip "needs root and a mount namespace of its own"
command -v setpriv >/dev/null || skip "needs setpriv"
command -v jq >/dev/null || skip "needs jq"
command -v fusermount3 >/dev/null || skip "needs fusermount3"
[ -u "$(command -v fusermount3)" ] || skip "needs a fusermount3 that may mount"
user()
{
	setpriv --reuid=4711 --regid=4711 --clear-groups env HOME="$work" "$@"
}
other()
{
	setpriv --reuid=4712 --regid=4712 --clear-groups "$@"
}
user test -x "$work" || skip "needs a folder for temporary files that other users may enter"
mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && : >fuse.conf &&
	{ [ -e /etc/fuse.conf ] || skip "needs /etc/fuse.conf"; } &&
	mount --bind fuse.conf /etc/fuse.conf && cp /etc/passwd . &&
	echo 'goldfs-user:x:4711:4711::/:/bin/sh' >>passwd && mount --bind passwd /etc/passwd && [ -w /dev/fuse ] && (: <>/dev/fuse) 2>/dev/null ||
	skip "needs to make a device"
cp "$goldfs" bin && chmod 755 bin
goldfs=$work/bin

mkdir home && chown 4711:4711 home && chmod 755 home
images=$work/home/images mnt=$work/home/mnt store=$work/home/store
user mkdir "$images" "$mnt"
user sh -c "head -c 2M /dev/urandom >$images/a.img"
# Somebody else's, that he may read and that he may not.
head -c 100K /dev/urandom >home/roots.img && chmod 644 home/roots.img
cp home/roots.img "$images/roots.img" && chmod 644 "$images/roots.img"
cp home/roots.img "$images/secret.img" && chmod 600 "$images/secret.img"

mount_as_user()
{
	user sh -c 'umask 0; exec "$@"' - "$goldfs" mount -o "store=$store,log=$store/log${1:+,$1}" \
		"$images" "$mnt" || fail "an ordinary user cannot mount"
}

mount_as_user
[ "$(findmnt -n -o FSTYPE "$mnt")" = fuse.goldfs ] || fail "$(findmnt "$mnt")"
findmnt -n -o OPTIONS "$mnt" | grep -q default_permissions || fail "$(findmnt -n -o OPTIONS "$mnt")"
findmnt -n -o OPTIONS "$mnt" | grep -q allow_other && fail "others are let in"
other ls "$mnt" >/dev/null 2>&1 && fail "another user is let in"
ls "$mnt" >/dev/null 2>&1 && fail "root is let in without allow_other"
worker=$(worker_pid)
grep -q '^Seccomp:.2$' "/proc/$worker/status" || fail "no filter of system calls"
grep -q '^CapEff:.0000000000000000$' "/proc/$worker/status" || fail "capabilities"
grep -q '^NoNewPrivs:.1$' "/proc/$worker/status" || fail "it can gain privileges"
open=$(find "$store" \( -type d ! -perm 700 \) -o \( -type f ! -perm 600 ! -path '*/golden/[0-9]*' \))
[ -z "$open" ] || fail "open to others: $open"
other ls "$store" >/dev/null 2>&1 && fail "another user sees the store"

use()
{
	user cmp "$images/a.img" "$mnt/golden/a.img" || fail "read"
	user cp "$mnt/golden/a.img" "$mnt/$1.img" || fail "cp"
	user cp "$mnt/golden/roots.img" "$mnt/$1-roots.img" || fail "cannot clone what he may read"
	user "$goldfs" clone -n 2 "$mnt/golden/a.img" "$mnt/$1-%d.img" || fail "clone"
	user dd if=/dev/urandom of="$mnt/$1.img" bs=64k count=3 conv=notrunc,fsync status=none ||
		fail "write"
	user "$goldfs" list "$mnt" >/dev/null && user "$goldfs" stat "$mnt/$1.img" >/dev/null &&
		user "$goldfs" df "$mnt" >/dev/null && user "$goldfs" settle "$mnt" || fail "verbs"
	user cat "$mnt/.goldfs/metrics" >/dev/null || fail "metrics"
	user cmp "$images/roots.img" "$mnt/$1-roots.img" || fail "the clone differs"
	[ "$(user stat -c %u:%g "$mnt/$1-1.img")" = 4711:4711 ] || fail "not his own"
}
use one
# The daemon has no more rights than he.
user cat "$mnt/golden/secret.img" >/dev/null 2>&1 && fail "an image was read that he may not read"
user cp "$mnt/golden/secret.img" "$mnt/s.img" 2>/dev/null && fail "it was cloned by cp"
user "$goldfs" clone "$mnt/golden/secret.img" "$mnt/s2.img" 2>/dev/null && fail "it was cloned"
user chown 4712 "$mnt/one.img" 2>/dev/null && fail "a file was given away"

# The supervisor starts the next worker without help.
kill_worker
user cmp "$images/a.img" "$mnt/one-1.img" || fail "the next worker does not serve"
[ "$(worker_pid)" != "$worker" ] || fail "no other worker"
grep -q '^Seccomp:.2$' "/proc/$(worker_pid)/status" || fail "no filter in the next worker"
use two

# An image that he changes in place.
user cp "$mnt/golden/a.img" before.img 2>/dev/null || cp "$images/a.img" before.img
user dd if=/dev/zero of="$images/a.img" bs=4k count=1 conv=notrunc status=none || fail "in place"
cmp before.img <(user cat "$mnt/two-1.img") || fail "the clone changed with its image"

user "$goldfs" umount "$mnt" || fail "umount"
mountpoint -q "$mnt" && fail "it is still mounted"
mount_as_user
user cmp before.img "$mnt/two-2.img" || fail "after a second mount"

# Signals unmount, by fusermount3 again.
kill "$(daemon_pid)"
# mountpoint(1) says no already while what is mounted does not answer any more.
for _ in $(seq 100); do
	grep -qF " $mnt fuse" /proc/self/mounts || break
	sleep 0.1
done
grep -qF " $mnt fuse" /proc/self/mounts && fail "a signal did not unmount"

# allow_other only where the administrator said so; modes count then.
user "$goldfs" mount -o "store=$store,allow_other" "$images" "$mnt" 2>err &&
	fail "allow_other without the administrator"
grep -q "^goldfs: cannot mount on \"$mnt\": .*user_allow_other" err || fail "$(cat err)"
mountpoint -q "$mnt" && fail "mounted all the same"
echo user_allow_other >fuse.conf
mount_as_user allow_other
findmnt -n -o OPTIONS "$mnt" | grep -q 'default_permissions.*allow_other' ||
	fail "$(findmnt -n -o OPTIONS "$mnt")"
user chmod 600 "$mnt/one.img"
user mkdir -m 700 "$mnt/private"
other ls "$mnt" >/dev/null || fail "allow_other lets nobody in"
other cat "$mnt/one.img" >/dev/null 2>&1 && fail "another user reads a private file"
other ls "$mnt/private" >/dev/null 2>&1 && fail "another user reads a private folder"
other "$goldfs" clone "$mnt/one.img" "$mnt/x.img" 2>/dev/null && fail "another user clones it"
other "$goldfs" settle "$mnt" 2>/dev/null && fail "another user settles"
user "$goldfs" settle "$mnt" || fail "the owner of the mount does not"
"$goldfs" settle "$mnt" || fail "root does not"
user "$goldfs" umount "$mnt" || fail "umount"
# What stays is his.
foreign=$(find home ! -user 4711 ! -name '*.img' ! -path '*/golden/*')
[ -z "$foreign" ] || fail "files of others: $foreign"
exit 0

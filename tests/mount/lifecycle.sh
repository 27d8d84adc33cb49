#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Mounting and unmounting: background and foreground, defaults, busy mounts, dead mounts, signals,
# the log, mount -t goldfs, ordinary users.
. "$(dirname "$0")/lib.sh"
setup "$1"
make_image base.img 4194304

gone()
{
	! grep -q " $mnt " /proc/self/mountinfo || fail "$1: still mounted"
}

# The store defaults to a hidden folder of the images folder, for the owner only.
"$goldfs" "$images" "$mnt" || fail "mount with defaults"
[ "$(stat -c %a "$images/.goldfs")" = 700 ] || fail "mode of the store"
[ "$(ls -A "$mnt/golden")" = base.img ] || fail "the store is to be seen: $(ls -A "$mnt/golden")"
store=$images/.goldfs
pid=$(daemon_pid)
[ "$(readlink "/proc/$pid/cwd")" = / ] || fail "the daemon stays in a folder"
grep -q '^State:' "/proc/$pid/status" || fail "no daemon"
umount_goldfs
gone "umount"
flock -n "$store/lock" true || fail "the lock is held after umount returned"

# Plain umount(8), and a mount at once after it: waits for the old daemon.
for i in 1 2 3; do
	mount_goldfs
	echo "$i" >"$mnt/count"
	umount "$mnt" || fail "umount(8)"
done
mount_goldfs
[ "$(cat "$mnt/count")" = 3 ] || fail "count is $(cat "$mnt/count")"

# Busy: open file, working folder, mapping, loop device; each is named and nothing happens.
cp "$mnt/golden/base.img" "$mnt/vm.img"
busy()
{
	if "$goldfs" umount "$mnt" 2>err >out; then
		fail "a busy mount was unmounted: $1"
	fi
	cat err
	[ "$(wc -l <err)" = 1 ] && grep -q "^goldfs: .*$1" err || fail "does not name $1: $(cat err)"
	[ -e "$mnt/vm.img" ] || fail "mount is gone"
}
sleep 1000 <"$mnt/vm.img" &
sleeper=$!
until [ "$(readlink /proc/$sleeper/fd/0)" = "$mnt/vm.img" ]; do sleep 0.01; done
busy "sleep (pid $sleeper)"
kill $sleeper; wait $sleeper 2>/dev/null
(cd "$mnt" && exec sleep 1000) &
sleeper=$!
while [ "$(readlink /proc/$sleeper/exe)" = "$(readlink /proc/$$/exe)" ]; do sleep 0.01; done
busy "sleep (pid $sleeper)"
kill $sleeper; wait $sleeper 2>/dev/null
python3 -c '
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 4096)
os.close(fd)
m[0] = 7
open(sys.argv[2], "w").close()
time.sleep(1000)' "$mnt/vm.img" mapped &
sleeper=$!
while [ ! -e mapped ]; do sleep 0.01; done
busy "python3 (pid $sleeper)"
kill $sleeper; wait $sleeper 2>/dev/null
if loop=$(losetup -f --show "$mnt/vm.img" 2>/dev/null); then
	busy "$loop (vm.img)"
	losetup -d "$loop"
fi
(cd "$mnt" && "$goldfs" umount .) || fail "umount from inside"
gone "umount from inside"

# A killed daemon: reads fail, goldfs cleans up and mounts again; what was written is there.
mount_goldfs
echo written >"$mnt/file"
kill_daemon
stat "$mnt" 2>/dev/null && fail "the mount lives without its daemon"
mount_goldfs
[ "$(cat "$mnt/file")" = written ] || fail "lost what was written before the kill"
[ "$(grep -c " $mnt " /proc/self/mountinfo)" = 1 ] || fail "dead mount below the new one"
kill_daemon
"$goldfs" umount "$mnt" || fail "umount of a dead mount"
gone "umount of a dead mount"

# Signals end a mount in order.
for signal in TERM INT HUP; do
	mount_goldfs
	echo $signal >"$mnt/file"
	pid=$(daemon_pid)
	kill -$signal "$pid"
	flock "$store/lock" true
	gone $signal
done
mount_goldfs
[ "$(cat "$mnt/file")" = HUP ] || fail "lost what was written before the signal"
exec 5<"$mnt/file"
pid=$(daemon_pid)
kill -TERM "$pid"
until grep -q "in use by .*(pid $$)" "$store/log"; do sleep 0.05; done
[ -e "$mnt/file" ] || fail "detached before its time"
kill -TERM "$pid" # not patient
flock "$store/lock" true
gone "second signal"
exec 5<&-

# Foreground: the log on stderr, status 0 at the end.
"$goldfs" mount -f -o "store=$store" "$images" "$mnt" 2>err &
pid=$!
until grep -q 'is mounted on' err; do sleep 0.05; done
[ "$(cat "$mnt/file")" = HUP ] || fail "foreground"
"$goldfs" umount "$mnt" || fail "umount of a foreground mount"
wait $pid || fail "status $? of a foreground mount"

# Read-only.
mount_goldfs ro
errno_of EROFS touch "$mnt/new"
[ "$(cat "$mnt/file")" = HUP ] || fail "read-only"
exec 5<"$mnt/file"
kill -9 "$(pgrep -f -- "mount-worker .*$mnt\$")" || fail "no worker of a read-only mount"
[ "$(cat "$mnt/file")" = HUP ] || fail "a read-only mount is not served again"
[ "$(cat <&5)" = HUP ] || fail "a file opened before is not served again"
exec 5<&-
umount_goldfs

# As mount(8) and fstab call it.
helper=$here/../../mount-helpers/mount.goldfs
export GOLDFS=$goldfs
options="rw,store=$store,nofail,x-systemd.requires=x,_netdev,context=\"a:b:c:s0:c1,c2\""
"$helper" "$images" "$mnt" -o "$options" || fail "mount.goldfs"
[ "$(cat "$mnt/file")" = HUP ] || fail "mount.goldfs"
"$helper" "$images" "$mnt" -o "$options" 2>/dev/null
[ $? = 32 ] || fail "mount.goldfs gives $? for a second mount"
"$helper" "$images" 2>/dev/null
[ $? = 1 ] || fail "mount.goldfs gives $? for wrong usage"
umount_goldfs
if [ -x /sbin/mount.goldfs ]; then
	mount -t goldfs -o "store=$store" "$images" "$mnt" || fail "mount -t goldfs"
	umount_goldfs
fi

# An ordinary user's own mount.
if command -v fusermount3 >/dev/null && as_nobody test -w /dev/fuse; then
	mkdir theirs theirs/images theirs/mnt && truncate -s 1M theirs/images/a.img
	chown -R 65534:65534 theirs
	extra_mounts+=("$work/theirs/mnt")
	as_nobody "$goldfs" theirs/images theirs/mnt || fail "mount by an ordinary user"
	as_nobody touch theirs/mnt/file || fail "use by an ordinary user"
	(store=theirs/images/.goldfs && kill_worker)
	as_nobody test -e theirs/mnt/file || fail "an ordinary user's worker was not replaced"
	ls theirs/mnt 2>/dev/null && fail "root can enter without allow_other"
	as_nobody "$goldfs" umount theirs/mnt || fail "unmount by an ordinary user"
else
	echo "not tried: a mount by an ordinary user, who may not open /dev/fuse here"
fi

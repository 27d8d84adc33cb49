#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What the worker has left of root's privileges, that everything works with it, and that neither the
# next worker nor an upgrade has more. What the store's files look like, whatever mount was started
# with.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v setpriv >/dev/null || skip "needs setpriv"
command -v jq >/dev/null || skip "needs jq"
[ "$(id -u)" -eq 0 ] || skip "needs root"
few=000000001000000c more=000000001000000e
sanitized=
if grep -qa __asan_init "$goldfs" || grep -qa __tsan_init "$goldfs"; then
	sanitized=yes
fi

# field PID NAME: of /proc/PID/status, the same for each of its threads.
field()
{
	local values
	values=$(sed -n "s/^$2:[[:space:]]*//p" /proc/"$1"/task/*/status | sort -u)
	[ "$(wc -l <<<"$values")" -eq 1 ] || fail "threads differ in $2: $values"
	echo "$values"
}

# confined CAPABILITIES: the worker is.
confined()
{
	local pid set
	pid=$(worker_pid)
	[ -n "$pid" ] || fail "no worker"
	for set in CapPrm CapEff CapBnd; do
		[ "$(field "$pid" $set)" = "$1" ] || fail "$set is $(field "$pid" $set), not $1"
	done
	for set in CapInh CapAmb; do
		[ "$(field "$pid" $set)" = 0000000000000000 ] || fail "$set is $(field "$pid" $set)"
	done
	[ "$(field "$pid" Seccomp)" = 2 ] || fail "no filter of system calls"
	[ "$(field "$pid" NoNewPrivs)" = 1 ] || fail "it can gain privileges"
}

private()
{
	local open
	open=$(find "$store" \( -type d ! -perm 700 \) -o \( -type f ! -perm 600 ! -path '*/golden/[0-9]*' \))
	[ -z "$open" ] || fail "open to others: $(ls -ld $open)"
}

# Images of others, that they alone may read, and one elsewhere.
head -c 300K /dev/urandom >images/theirs.img
head -c 300K /dev/urandom >images/ours.img
chown 1001:1001 images/theirs.img
chmod 600 images/theirs.img images/ours.img
mkdir images/elsewhere
chmod 755 "$store"
touch "$store/.keep" && rm "$store/.keep"

# Started in an odd way: everything open to others, descriptors left open, hardly any allowed.
(
	umask 0
	exec 7<"$goldfs" 8>"$work/left-open"
	ulimit -S -n 64
	ulimit -S -f 100
	LC_ALL=C TZ=Asia/Tokyo mount_goldfs
) || exit 1
confined $few
private
findmnt -n -o OPTIONS mnt | grep -q 'default_permissions.*allow_other' ||
	fail "$(findmnt -n -o OPTIONS mnt)"
for pid in $(daemon_pid) $(worker_pid); do
	! ls -l /proc/"$pid"/fd | grep -q left-open || fail "a file of whoever mounted it is open"
	[ "$(awk '/^Max file size/ { print $4 }' /proc/"$pid"/limits)" = unlimited ] ||
		fail "the size of files is limited"
done
[ "$(field "$(daemon_pid)" CapEff)" != $few ] || fail "the supervisor could not unmount"

# Everything works.
cmp images/theirs.img mnt/golden/theirs.img || fail "cannot read the image of another user"
cp mnt/golden/theirs.img mnt/a.img || fail "cannot clone it"
"$goldfs" clone -n 3 mnt/golden/ours.img 'mnt/b%d.img' || fail "cannot clone"
cmp images/theirs.img mnt/a.img || fail "the clone differs"
dd if=/dev/urandom of=mnt/a.img bs=4k count=20 seek=3 conv=notrunc,fsync status=none || fail "write"
dd if=/dev/urandom of=mnt/b1.img bs=128k count=2 conv=notrunc,fsync status=none || fail "write"
fallocate -p -o 0 -l 4096 mnt/b2.img || fail "discard"
mkdir mnt/d && mv mnt/b3.img mnt/d/ && rm mnt/d/b3.img && rmdir mnt/d || fail "names"
setfattr -n user.x -v y mnt/a.img || fail "xattr"
"$goldfs" settle mnt || fail "settle"
"$goldfs" list mnt >list && "$goldfs" stat mnt/a.img >stat && "$goldfs" df mnt >df || fail "figures"
cat mnt/.goldfs/metrics >/dev/null || fail "metrics"
# The child that works on a pin: sums of linked ones appear.
pins=$(find "$store/golden" -name '[0-9]*' ! -name '*.*' | wc -l)
[ "$pins" -eq 2 ] || fail "$pins pins"
for _ in $(seq 100); do
	[ "$(find "$store/golden" -links +1 ! -name '*.*' -type f | wc -l)" -le \
		"$(find "$store/golden" -name '*.sums' | wc -l)" ] && break
	sleep 0.1
done
[ "$(find "$store/golden" -links +1 -type f | wc -l)" -le \
	"$(find "$store/golden" -name '*.sums' | wc -l)" ] || fail "no sums were made"
# A linked image that is written to in place is copied first: leases work.
cp images/theirs.img before
setpriv --reuid=1001 --regid=1001 --clear-groups sh -c 'exec dd if=/dev/zero of="$1" bs=4k count=1 \
	conv=notrunc status=none' - images/theirs.img || fail "the image could not be written to"
cmp -n 12288 before mnt/a.img || fail "the clone changed with its image"
grep -q 'EPERM\|Operation not permitted\|permitted' "$store/log" && fail "$(cat "$store/log")"

# The log is turned over, and is still private.
head -c 5M /dev/zero >>"$store/log"
for _ in $(seq 100); do
	[ -e "$store/log.1" ] && break
	sleep 0.1
done
[ -e "$store/log.1" ] || fail "the log was not turned over"
private

# The next worker, and one of another program.
old=$(worker_pid)
kill_worker
cmp images/ours.img mnt/b2.img -i 4096 || fail "the next worker does not serve"
[ "$(worker_pid)" != "$old" ] || fail "no other worker"
confined $few
cp "$goldfs" upgraded
"$goldfs" upgrade --binary "$work/upgraded" mnt >/dev/null || fail "upgrade"
confined $few
# A worker must not get a program run that it could have written itself.
cp "$goldfs" "$store/planted" && chmod 700 "$store/planted"
"$goldfs" upgrade --binary "$store/planted" mnt 2>err && fail "a program in the store was run"
grep -q 'in the store' err || fail "$(cat err)"
rm "$store/planted"
confined $few
cp mnt/golden/ours.img mnt/after.img || fail "clone after the upgrade"
private
umount_goldfs

# What lies on another file system is copied into the store.
if mount -t tmpfs none images/elsewhere 2>/dev/null; then
	extra_mounts+=("$images/elsewhere")
	head -c 300K /dev/urandom >images/elsewhere/x.img
	chown 1001:1001 images/elsewhere/x.img
	chmod 600 images/elsewhere/x.img
	mount_goldfs
	cp mnt/golden/elsewhere/x.img mnt/x.img || fail "cannot clone what lies elsewhere"
	for _ in $(seq 100); do
		[ "$("$goldfs" stat -n -o state mnt/x.img)" != copying ] && break
		sleep 0.1
	done
	cp images/elsewhere/x.img before
	rm images/elsewhere/x.img
	cmp before mnt/x.img || fail "the copy in the store differs"
	umount_goldfs
	umount images/elsewhere
fi

# A store that belongs to somebody else can be written only by overriding that.
chown 1001 "$store/layer"
mount_goldfs
confined $more
dd if=/dev/urandom of=mnt/b1.img bs=4k count=1 conv=notrunc,fsync status=none || fail "write"
umount_goldfs
chown 0 "$store/layer"

# Read-only, and with everything left.
mount_goldfs ro
confined $few
cmp images/ours.img mnt/after.img || fail "read-only"
umount_goldfs
mount_goldfs sandbox=off
[ "$(field "$(worker_pid)" Seccomp)" = 0 ] || fail "sandbox=off did not turn it off"
grep -q 'sandbox=off' "$store/log" || fail "nothing in the log about sandbox=off"
umount_goldfs
[ -z "$sanitized" ] || echo "a build with sanitizers: the filter allows more"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs limit: who may set one, what it stops and what not, where it shows, that it stays.

. "$(dirname "$0")/lib.sh"

# put FILE MIB [SEEK]: synced.
put()
{
	dd if=/dev/urandom of="$1" bs=1M count="$2" seek="${3:-0}" conv=notrunc,fsync 2>"$work/dd"
}

# full FILE MIB [SEEK]: that does not go, for want of space.
full()
{
	if put "$@"; then
		fail "$1 took $2 MiB more than its limit"
	fi
	grep -q 'No space left' "$work/dd" || fail "$1: $(cat "$work/dd")"
}

limit_of()
{
	"$goldfs" stat -j "$1" | jq '.goldfs[0].limit_bytes // 0'
}

setup "$1"
command -v jq >/dev/null || skip "needs jq"
make_image base.img $((64 << 20)) 4
mount_goldfs
mkdir "$mnt/t1" "$mnt/t1/in" || fail mkdir
"$goldfs" clone "$mnt/golden/base.img" "$mnt/t1/a.img" "$mnt/t1/in/b.img" "$mnt/free.img" ||
	fail "cannot clone"
"$goldfs" limit "$mnt/t1" 16M || fail "cannot limit a folder"
"$goldfs" limit "$mnt/t1/in/b.img" 4M || fail "cannot limit a clone"
[ "$(limit_of "$mnt/t1")" = $((16 << 20)) ] || fail "stat does not show the limit"
[ "$(limit_of "$mnt/free.img")" = 0 ] || fail "stat shows a limit where there is none"
"$goldfs" list -n -t folder -o path,limit "$mnt" | grep -q 't1 *16M' || fail "list -o limit"

put "$mnt/t1/in/b.img" 4 || fail "within the limit: $(cat "$work/dd")"
full "$mnt/t1/in/b.img" 1 8
put "$mnt/t1/a.img" 12 || fail "within the limit: $(cat "$work/dd")"
full "$mnt/t1/a.img" 1 20
put "$mnt/t1/a.img" 12 || fail "overwriting at the limit: $(cat "$work/dd")"
put "$mnt/free.img" 20 || fail "others are not concerned: $(cat "$work/dd")"
avail=$(df -B1 --output=avail "$mnt/t1" | tail -1)
[ "$avail" -eq 0 ] || fail "df of the folder says $avail are left"
[ "$(df -B1 --output=size "$mnt/t1" | tail -1)" -eq $((16 << 20)) ] || fail "df of the folder"
[ "$(df -B1 --output=avail "$mnt" | tail -1)" -gt $((16 << 20)) ] || fail "df of the mount"
grep -q 'holds 95 % of its limit' "$store/log" || fail "no warning"

kill_daemon
mount_goldfs
full "$mnt/t1/a.img" 1 20
fallocate -p -o 0 -l 4M "$mnt/t1/a.img" || fail discard
put "$mnt/t1/a.img" 4 20 || fail "after a discard: $(cat "$work/dd")"
mv "$mnt/t1/in/b.img" "$mnt" || fail mv
"$goldfs" limit "$mnt/b.img" none || fail "cannot lift a limit"
put "$mnt/b.img" 6 || fail "lifted: $(cat "$work/dd")"
put "$mnt/t1/a.img" 4 30 || fail "after a move: $(cat "$work/dd")"
full "$mnt/t1/a.img" 1 40
umount_goldfs
mount_goldfs
[ "$(limit_of "$mnt/t1")" = $((16 << 20)) ] || fail "the limit is gone after a remount"

chmod 777 "$mnt/t1"
as_nobody "$goldfs" limit "$mnt/t1" none 2>"$work/err" && fail "anybody may lift limits"
grep -q 'only root and the owner' "$work/err" || fail "$(cat "$work/err")"
for args in "$mnt/t1" "$mnt/t1 0" "$mnt/t1 -5" "$mnt/t1 much" "$mnt/t1 1M 2M"; do
	# shellcheck disable=SC2086
	"$goldfs" limit $args 2>/dev/null
	[ $? = 2 ] || fail "goldfs limit $args should be wrong usage"
done
"$goldfs" limit "$mnt/golden" 1M 2>/dev/null && fail "golden has a limit"
umount_goldfs

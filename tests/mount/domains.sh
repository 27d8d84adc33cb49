#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 180 s
#
# goldfs dedup --set and --domain: two tenants who write the same each pay for it, whatever moves and
# over mounts; who may set it, where it shows, that it stays.
#
# Environment: MIB (4) of data that each clone writes.
. "$(dirname "$0")/work_lib.sh"
mib=${MIB:-4}
bytes=$((mib << 20))

physical()
{
	"$goldfs" df -j "$mnt" | jq '.store | .physical_bytes - .journal_bytes'
}

# grew WHAT BEFORE TIMES: the store has grown by so many times the data, within a fifth of it.
grew()
{
	local by=$(($(physical) - $2))
	echo "$1: $by bytes, $3 times $bytes"
	[ $by -ge $(($3 * bytes - bytes / 5)) ] && [ $by -le $(($3 * bytes + bytes / 5)) ] ||
		fail "$1: the store grew by $by bytes, not by $3 times $bytes"
}

# put FILE: the data, synced.
put()
{
	dd if=data of="$1" bs=1M conv=notrunc,fsync status=none
}

# shows FILE KEY: as text.
shows()
{
	"$goldfs" stat -j "$1" | jq -r ".goldfs[0].$2 // \"\""
}

unique()
{
	figure "$1" unique_bytes
}

golden base.img 32
head -c "$bytes" /dev/urandom >data
mount_goldfs
for tenant in a b; do
	mkdir "$mnt/$tenant" "$mnt/$tenant/in"
	"$goldfs" clone -n 3 "$mnt/golden/base.img" "$mnt/$tenant/%d.img"
	"$goldfs" dedup --domain own "$mnt/$tenant" || fail "cannot set a domain"
done
"$goldfs" clone -n 2 "$mnt/golden/base.img" "$mnt/%d.img"
"$goldfs" settle "$mnt"
[ "$(shows "$mnt/a/1.img" dedup_domain)" = /a ] || fail "stat does not show the domain"
[ "$(shows "$mnt/1.img" dedup_domain)" = "" ] || fail "stat shows a domain where there is none"
[ "$("$goldfs" list -n -t folder -o path,dedup,dedup-domain "$mnt/b" | awk '{ print $2, $3 }')" = "all /b" ] ||
	fail "list shows: $("$goldfs" list -n -t folder -o path,dedup,dedup-domain "$mnt/b")"

# Each domain has it once.
before=$(physical)
for file in a/1 b/1 1 a/2 b/2 2; do
	put "$mnt/$file.img"
done
"$goldfs" settle "$mnt"
grew "two tenants and the rest" "$before" 3
for file in a/1 b/1 1 a/2 b/2 2; do
	[ "$(unique "$mnt/$file.img")" -lt $((bytes / 20)) ] || fail "$file does not share in its domain"
done

# After a mount, and the death of the worker.
kill_worker
put "$mnt/a/3.img"
umount_goldfs
mount_goldfs
[ "$(shows "$mnt/b/in" dedup_domain)" = /b ] || fail "the domain is forgotten"
put "$mnt/b/3.img"
"$goldfs" settle "$mnt"
grew "after a mount" "$before" 3

# What moves keeps what it shares, and nobody comes to share with it across.
mv "$mnt/a/3.img" "$mnt/b/in/moved.img"
"$goldfs" settle "$mnt"
grew "moved" "$before" 3
cmp -n "$bytes" data "$mnt/b/in/moved.img" || fail "what moved has changed"
"$goldfs" clone "$mnt/golden/base.img" "$mnt/a/4.img"
put "$mnt/a/4.img"
"$goldfs" settle "$mnt"
grew "written anew where something moved away" "$before" 4

# A copy across shares, as anywhere.
cp "$mnt/1.img" "$mnt/a/copy.img"
"$goldfs" settle "$mnt"
grew "copied across" "$before" 4

# Policies.
mkdir "$mnt/off"
"$goldfs" dedup --set off "$mnt/off"
"$goldfs" clone "$mnt/golden/base.img" "$mnt/off/1.img"
put "$mnt/off/1.img"
"$goldfs" settle "$mnt"
grew "not looked for" "$before" 5
[ "$(shows "$mnt/off/1.img" dedup)" = off ] || fail "stat does not show the policy"
# Where there is nothing to be done that is said.
! "$goldfs" dedup "$mnt/off" 2>err.txt || fail "what is not looked for is"
grep -q 'is off; goldfs dedup --set' err.txt || fail "says: $(cat err.txt)"
! "$goldfs" dedup "$mnt/golden/base.img" 2>err.txt || fail "an image is looked at"
grep -q 'base.img" is no clone' err.txt || fail "says: $(cat err.txt)"
"$goldfs" dedup --set all --domain shared "$mnt/off"
"$goldfs" dedup "$mnt/off" "$mnt/2.img" 2>/dev/null
[ "$(shows "$mnt/off/1.img" dedup)" = all ] || fail "the policy did not change"

# What is refused.
! "$goldfs" dedup --set most "$mnt/a" 2>err.txt || fail "a wrong policy is taken"
grep -q 'most' err.txt || fail "says: $(cat err.txt)"
! "$goldfs" dedup --domain own "$mnt/golden" 2>err.txt || fail "golden images can have a domain"
chmod 755 "$work" "$mnt"
! as_nobody "$goldfs" dedup --domain shared "$mnt/a" 2>err.txt || fail "anybody can leave a domain"
[ "$(shows "$mnt/a" dedup_domain)" = /a ] || fail "somebody has left a domain"

"$goldfs" scrub "$mnt" >/dev/null || fail "scrub finds something"
umount_goldfs
"$goldfs" check "$store" >check.log || fail "check: $(cat check.log)"

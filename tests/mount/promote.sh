#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 180 s
#
# goldfs promote: a golden image made of a clone can be cloned at once, comes to be a sparse file of the
# same bytes in the folder of images, whatever happens meanwhile, or is given up; and nothing that is
# there already is replaced.
. "$(dirname "$0")/work_lib.sh"
need fio

everything()
{
	find "$images" "$store" -path "$store/promoted/*" -o -path "$store" -prune -o -print | sort
}

# refused TEXT ARGUMENT...: promote says so and does nothing.
refused()
{
	local text=$1 before after
	shift
	before=$(everything)
	if "$goldfs" promote "$@" >out 2>err; then
		fail "promote $* should have failed"
	fi
	[ ! -s out ] && grep -q "$text" err || fail "promote $* said: $(cat err)"
	after=$(everything)
	[ "$before" = "$after" ] || fail "promote $* left something"
}

# shown PATH KIND STATE
shown()
{
	local row
	row=$("$goldfs" list -j "$1" | jq -r '.goldfs[0] | "\(.kind) \(.state)"')
	[ "$row" = "$2 $3" ] || fail "\"$1\" is shown as \"$row\", not as \"$2 $3\""
}

# written NAME COPY: it is a file of its own, sparse, and what COPY is; nothing is left in the store.
written()
{
	cmp "$images/$1" "$2" || fail "\"$1\" is not what was promoted"
	cmp "$mnt/golden/$1" "$2" || fail "golden/$1 is not what was promoted"
	[ $(($(stat -c %b "$images/$1") * 512)) -lt $((52 << 20)) ] || fail "\"$1\" has no holes"
	[ -z "$(ls -A "$store/promoted" 2>/dev/null)" ] || fail 'something is left in the store'
	shown "$mnt/golden/$1" golden ok
	[ -z "$(find "$images" -name '.*')" ] || fail 'something hidden is left'
}

golden base.img 64
mkdir "$images/sub"
cp "$images/base.img" "$images/there.img"
mount_goldfs
vm=$mnt/vm
"$goldfs" clone "$mnt/golden/base.img" "$vm"
dd if=/dev/urandom of="$vm" bs=1M seek=5 count=6 conv=notrunc status=none
printf odd | dd of="$vm" bs=1 seek=$((20 * 1048576 + 77)) conv=notrunc status=none
truncate -s $((64 * 1048576 + 1000)) "$vm"
cp "$vm" first

refused 'already' "$vm" there.img
refused 'does not exist' "$vm" nowhere/x.img
refused 'no name' "$vm" .hidden.img
refused 'no name' "$vm" sub/../x.img
refused 'is a golden image already' "$mnt/golden/base.img" x.img
refused 'are needed' "$vm"
refused 'below golden' "$vm" "$mnt/golden/x.img"
refused 'no such file' "$mnt/nothing" x.img
refused 'directory' "$mnt" x.img
if as_nobody "$goldfs" promote "$vm" x.img 2>err; then
	fail 'somebody made a golden image for all'
fi

# The usual: at once and whole.
"$goldfs" promote "$vm" new.img
written new.img first
[ "$(stat -c %a "$images/new.img")" = 644 ] || fail 'others cannot read the image'
"$goldfs" clone "$mnt/golden/new.img" "$mnt/of-new"
cmp "$mnt/of-new" first || fail 'a clone of the new image differs'
[ "$(figure "$mnt/of-new" unique_bytes)" -eq 0 ] || fail 'a clone of the new image owns something'

# In the background, slowly, from a clone that somebody writes to.
fio --name=writer --filename="$vm" --rw=randwrite --bs=4k --size=16m --direct=1 --ioengine=psync \
	--rate_iops=200 --time_based --runtime=600 --output=/dev/null &
pids+=($!)
job=$("$goldfs" promote --background --rate 4K "$vm" sub/slow.img)
[ -n "$job" ] || fail 'no job'
slow=$mnt/golden/sub/slow.img
shown "$slow" golden copying
[ "$(ls "$mnt/golden/sub")" = slow.img ] || fail 'it is not listed'
[ -z "$(ls "$images/sub")" ] || fail 'an unfinished file is there'
"$goldfs" job list -n -o kind,target,state "$mnt" | grep -q 'promote *golden/sub/slow.img *running' ||
	fail 'its job is not shown'
cp "$slow" slow || fail 'it cannot be read'
"$goldfs" clone "$slow" "$mnt/of-slow"
cp "$slow" "$mnt/of-slow-too"
cmp "$mnt/of-slow" slow && cmp "$mnt/of-slow-too" slow || fail 'a clone of it differs'
errno_of EROFS sh -c "echo x >>'$slow'"
errno_of EROFS rm -f "$slow"
errno_of EROFS mv "$slow" "$mnt/mine"
errno_of EROFS chmod 600 "$slow"
refused 'already' "$vm" sub/slow.img
for verb in refresh rebase; do
	if "$goldfs" $verb "$mnt/of-slow" --onto "$slow" 2>err; then
		fail "$verb onto an image that is not written"
	fi
	grep -q "golden/sub/slow.img\" is being written, wait for its job" err || fail "$verb says: $(cat err)"
done

# The worker dies, then all of it; somebody goes on each time.
kill_worker
cmp "$slow" slow || fail 'it changed when the worker was killed'
shown "$slow" golden copying
kill "${pids[0]}"
wait "${pids[0]}" || true
pids=()
umount_goldfs
[ -z "$(ls "$images/sub")" ] || fail 'it was written although there was no time'
[ -n "$(ls "$store/promoted")" ] || fail 'what was written is gone'
"$goldfs" check "$store" >/dev/null || fail 'the store is damaged'
mount_goldfs ro
cmp "$slow" slow || fail 'a read-only mount does not show it'
for verb in "convert $vm --mode thin" "rebase $vm $mnt/of-slow --onto $mnt/golden/base.img" \
	"upgrade-base $mnt/golden/base.img $mnt/golden/new.img" "dedup $vm"; do
	# shellcheck disable=SC2086
	if "$goldfs" $verb 2>err; then
		fail "$verb on a read-only mount"
	fi
	grep -q "\"$mnt[^\"]*\": read-only file system" err || fail "$verb says: $(cat err)"
done
umount_goldfs
mount_goldfs
cmp "$slow" slow || fail 'it changed over a remount'
# The rate is its own still, so others overtake it; until another one is named.
until "$goldfs" job list -n -o target,state "$mnt" | grep -q 'golden/sub/slow.img *running'; do
	sleep 0.05
done
"$goldfs" promote "$mnt/of-slow" quick.img
shown "$slow" golden copying
"$goldfs" promote --resume --rate 1G "$slow" || fail "it does not go on"
written quick.img slow
written sub/slow.img slow
cmp "$mnt/of-slow" slow || fail 'a clone of it changed when it was written'

# What an earlier attempt left is compared: damage it.
job=$("$goldfs" promote --background --rate 1M "$mnt/of-slow" again.img)
while [ "$(stat -c %s "$store"/promoted/* 2>/dev/null || echo 0)" -lt $((2 << 20)) ]; do
	sleep 0.05
done
umount_goldfs
dd if=/dev/urandom of="$(echo "$store"/promoted/*)" bs=64k count=40 conv=notrunc status=none
mount_goldfs
"$goldfs" promote --resume --rate 1G "$mnt/golden/again.img" 2>err || grep -q 'nothing is being' err ||
	fail "$(cat err)"
written again.img slow

# Given up: by its verb, and by cancelling its job. Clones stay.
for how in verb job; do
	job=$("$goldfs" promote --background --rate 1M "$vm" given-up.img)
	"$goldfs" clone "$mnt/golden/given-up.img" "$mnt/kept-$how"
	cp "$mnt/kept-$how" "kept-$how"
	if [ $how = verb ]; then
		"$goldfs" promote --cancel "$mnt/golden/given-up.img"
	else
		"$goldfs" job cancel "$job" "$mnt"
		"$goldfs" job wait "$job" "$mnt" >/dev/null 2>&1 || true
	fi
	[ ! -e "$mnt/golden/given-up.img" ] && [ ! -e "$images/given-up.img" ] ||
		fail "given up by its $how, it is there"
	[ -z "$(ls -A "$store/promoted")" ] || fail 'something is left of it'
	cmp "$mnt/kept-$how" "kept-$how" || fail 'a clone of it changed'
done
if "$goldfs" promote --cancel "$mnt/golden/new.img" 2>err; then
	fail 'an image was given up that is written'
fi
cmp "$images/new.img" first || fail 'an image was removed'

# Somebody puts a file there meanwhile: it is his, and the job says so. Then he takes it away.
job=$("$goldfs" promote --background --rate 4M "$mnt/of-slow" taken.img)
echo his >"$images/taken.img"
if "$goldfs" job wait "$job" "$mnt" 2>err; then
	[ "$("$goldfs" job list -j "$mnt" | jq -r ".jobs[] | select(.id == $job).state")" = failed ] ||
		fail 'it replaced a file of somebody else'
fi
[ "$(cat "$images/taken.img")" = his ] || fail 'a file of somebody else is gone'
rm "$images/taken.img"
"$goldfs" promote --resume --rate 1G "$mnt/golden/taken.img"
written taken.img slow

# A folder that nobody may write to: a clear error, and on it goes when that is over.
if chattr +i "$images/sub" 2>/dev/null; then
	job=$("$goldfs" promote --background "$mnt/of-slow" sub/later.img)
	"$goldfs" job wait "$job" "$mnt" >/dev/null 2>&1 || true
	"$goldfs" job list -j "$mnt" | jq -e ".jobs[] | select(.id == $job) | .state == \"failed\" and
		(.error | length > 0)" >/dev/null || fail 'the job does not say what is wrong'
	cmp "$mnt/golden/sub/later.img" slow || fail 'it is not there any more'
	"$goldfs" promote "$mnt/of-slow" sub/third.img 2>err && fail 'it is written into a folder that is not to be changed'
	grep -q 'sub/third.img" can be cloned, and writing it is tried again' err || fail "$(cat err)"
	"$goldfs" promote --cancel "$mnt/golden/sub/third.img" || fail 'it cannot be given up'
	chattr -i "$images/sub"
	"$goldfs" promote --resume "$mnt/golden/sub/later.img"
	written sub/later.img slow
fi

# What somebody wrote through a mapping, and did not sync, is in it.
python3 - "$vm" <<-'END' &
	import mmap, os, sys, time
	fd = os.open(sys.argv[1], os.O_RDWR)
	m = mmap.mmap(fd, 4096)
	m[100:106] = b'mapped'
	open('mapped', 'w').close()
	time.sleep(60)
END
pids+=($!)
until [ -e mapped ]; do sleep 0.05; done
"$goldfs" promote "$vm" mapped.img || fail 'promote'
kill "${pids[-1]}"
wait "${pids[-1]}" || true
unset 'pids[-1]'
[ "$(dd if="$images/mapped.img" bs=1 skip=100 count=6 status=none)" = mapped ] || fail 'what was mapped is not in it'

# What stood on the clone stays when the clone goes; accounts are right, and a check finds nothing.
rm "$vm" "$mnt"/of-* "$mnt"/kept-*
"$goldfs" settle "$mnt"
[ "$("$goldfs" df -j "$mnt" | jq .store.unique_bytes)" -eq 0 ] || fail 'something is left'
umount_goldfs
"$goldfs" check "$store" >/dev/null || fail 'the store is damaged'

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 240 s
#
# Copies that stand on their own: thin and full, of clones that are written to meanwhile; without their
# golden image, and on a disk that is full; and back again.
#
# Environment: MIB (24) of an image's data.
. "$(dirname "$0")/work_lib.sh"
need python3 sha256sum
mib=${MIB:-24}

# word PATH KEY
word()
{
	"$goldfs" stat -j "$1" | jq -r ".goldfs[0].$2"
}

# shares_nothing PATH
shares_nothing()
{
	[ "$(figure "$1" 'shared_golden_bytes + .goldfs[0].shared_clone_bytes + .goldfs[0].shared_snapshot_bytes +
		.goldfs[0].shared_self_bytes')" = 0 ] || fail "\"$1\" shares something: $("$goldfs" stat "$1")"
}

# await_state PATH STATE
await_state()
{
	for _ in $(seq 600); do
		[ "$(word "$1" state)" != "$2" ] || return 0
		sleep 0.05
	done
	fail "\"$1\" never becomes $2: $("$goldfs" stat "$1")"
}

# allocated: bytes that the layers' data files take.
allocated()
{
	find "$store/layer" -name '*.data' -printf '%b\n' | awk '{ n += $1 } END { print n * 512 }'
}

golden base.img "$mib"
mount_goldfs journal-size=32M
chmod 755 "$mnt"
for n in thin full back plain; do
	"$goldfs" clone "$mnt/golden/base.img" "$mnt/$n.img"
	dd if=/dev/urandom of="$mnt/$n.img" bs=64K count=20 seek=7 conv=notrunc status=none
done
chmod 644 "$mnt"/*.img
"$goldfs" settle "$mnt"

# ---- wrong input, and who may ----
"$goldfs" convert "$mnt/thin.img" --mode quick 2>err && fail "a mode that is none"
"$goldfs" convert "$mnt/golden/base.img" --mode thin 2>err && fail "an image is converted"
"$goldfs" convert "$mnt/nothing.img" --mode thin 2>err && fail "nothing is converted"
"$goldfs" convert "$mnt/thin.img" --mode thin --onto "$mnt/golden/base.img" 2>err && fail "thin on an image"
as_nobody "$goldfs" convert "$mnt/thin.img" --mode thin 2>err && fail "another user converts a clone"
[ "$(word "$mnt/thin.img" mode)" = snapshot ] || fail "a refused conversion does something"

# ---- thin, with a writer and a worker that dies ----
python3 - "$mnt/thin.img" "$work/stop" "$work/thin.want" <<-'END' &
	import os, random, sys
	fd = os.open(sys.argv[1], os.O_RDWR)
	size = os.fstat(fd).st_size
	image = bytearray(os.pread(fd, size, 0))
	rng, n = random.Random(3), 0
	while n < 300 or not os.path.exists(sys.argv[2]):
	    at = rng.randrange(size // 2048) * 512
	    data = rng.randbytes(rng.choice((512, 4096, 100000)))[:size - at]
	    os.pwrite(fd, data, at)
	    image[at:at + len(data)] = data
	    at = rng.randrange(size - 8192) if n % 8 == 0 else rng.randrange(size // 4)
	    if os.pread(fd, 8192, at) != image[at:at + 8192]:
	        sys.exit(f'at {at} stands something else')
	    n += 1
	os.fsync(fd)
	open(sys.argv[3], 'wb').write(image)
END
writer=$!
pids+=("$writer")
"$goldfs" convert "$mnt/thin.img" --mode thin --rate 3M &
job=$!
pids+=("$job")
await_state "$mnt/thin.img" copying
kill_worker
wait "$job" || fail "a conversion does not survive its worker"
touch "$work/stop"
wait "$writer" || fail "a writer met something else"
[ "$(word "$mnt/thin.img" mode)" = thin ] || fail "mode: $(word "$mnt/thin.img" mode)"
[ -z "$(word "$mnt/thin.img" base)" ] || fail "it stands on an image"
cmp thin.want "$mnt/thin.img" || fail "a thin copy shows something else"
"$goldfs" settle "$mnt"
shares_nothing "$mnt/thin.img"
# What is written is not shared either.
dd if="$images/base.img" of="$mnt/thin.img" bs=64K count=10 seek=30 conv=notrunc status=none
"$goldfs" settle "$mnt"
shares_nothing "$mnt/thin.img"

# ---- full ----
sha256sum <"$mnt/full.img" >full.want
before=$(allocated)
"$goldfs" convert "$mnt/full.img" --mode full || fail "convert --mode full"
sha256sum <"$mnt/full.img" | cmp - full.want || fail "a full copy shows something else"
"$goldfs" settle "$mnt"
shares_nothing "$mnt/full.img"
size=$((mib << 20))
[ "$(figure "$mnt/full.img" unique_bytes)" = "$size" ] || fail "not every byte of it is its own"
[ "$(word "$mnt/full.img" mode)" = full ] || fail "mode: $(word "$mnt/full.img" mode)"
now=$(allocated)
# Its own blocks were there before.
[ $((now - before)) -ge $((size - (20 << 16) - (1 << 16))) ] || fail "a full copy takes $((now - before)) bytes"
fallocate -p -o 0 -l $((size / 2)) "$mnt/full.img" || fail "discard"
"$goldfs" settle "$mnt"
[ "$(allocated)" -ge "$now" ] || fail "a discard gives places back: $(allocated) of $now"
truncate -s +1M "$mnt/full.img"
[ "$(allocated)" -ge $((now + (1 << 20))) ] || fail "it grows without places"
sha256sum <"$mnt/full.img" >full.want

# ---- a clone of that mode from the start ----
"$goldfs" clone --mode thin "$mnt/golden/base.img" "$mnt/new.img" || fail "clone --mode thin"
[ "$(word "$mnt/new.img" mode)" = thin ] || fail "mode of a clone: $(word "$mnt/new.img" mode)"
cmp "$images/base.img" "$mnt/new.img" || fail "clone --mode thin copies something else"

# ---- given up ----
"$goldfs" settle "$mnt"
unique=$(figure "$mnt/back.img" unique_bytes)
# Who is interrupted waits no longer, and is told how to go on.
timeout -s INT 1 "$goldfs" convert --mode thin --rate 1M "$mnt/back.img" 2>interrupted.log && fail "so soon"
[ "$(word "$mnt/back.img" state)" = copying ] || fail "the job ended with who waited for it"
id=$(sed -n 's/^goldfs: job \([0-9]*\) goes on.*/\1/p' interrupted.log)
[ -n "$id" ] && grep -qx "  goldfs job cancel $id $mnt" interrupted.log || fail "$(cat interrupted.log)"
"$goldfs" job cancel "$id" "$mnt" || fail "job cancel"
"$goldfs" job wait "$id" "$mnt" 2>/dev/null && fail "a cancelled job is done"
"$goldfs" settle "$mnt"
[ "$(word "$mnt/back.img" mode)" = snapshot ] || fail "a cancelled conversion changes the mode"
[ "$(figure "$mnt/back.img" unique_bytes)" -le "$unique" ] || fail "a cancelled conversion leaves copies"

# ---- a rate, which a worker takes over: others overtake it ----
"$goldfs" clone "$mnt/golden/base.img" "$mnt/slow.img"
"$goldfs" clone "$mnt/golden/base.img" "$mnt/quick.img"
"$goldfs" convert --background --mode thin --rate 4K "$mnt/slow.img" >/dev/null
await_state "$mnt/slow.img" copying
kill_worker
running()
{
	"$goldfs" job list -j "$mnt" | jq -r '.jobs[] | select(.target == "slow.img" and .state == "running").id'
}
until [ -n "$(running)" ]; do
	sleep 0.05
done
"$goldfs" convert "$mnt/quick.img" --mode thin || fail "convert beside another"
[ "$(word "$mnt/slow.img" state)" = copying ] || fail "the rate is lost with the worker"
id=$(running)
"$goldfs" job cancel "$id" "$mnt" || fail "job cancel"
"$goldfs" job wait "$id" "$mnt" 2>/dev/null && fail "a cancelled job is done"
[ "$(word "$mnt/slow.img" mode)" = snapshot ] || fail "a cancelled conversion changes the mode"
rm "$mnt/slow.img" "$mnt/quick.img"

# ---- and back again ----
sha256sum <"$mnt/back.img" >back.want
"$goldfs" convert "$mnt/back.img" --mode thin || fail "convert --mode thin"
"$goldfs" convert "$mnt/back.img" --mode snapshot --onto "$mnt/golden/base.img" || fail "convert --mode snapshot"
"$goldfs" settle "$mnt"
sha256sum <"$mnt/back.img" | cmp - back.want || fail "there and back shows something else"
[ "$(figure "$mnt/back.img" unique_bytes)" -le "$unique" ] || fail "back again it holds more of its own"
[ "$(word "$mnt/back.img" base)" = golden/base.img ] || fail "back again it stands on nothing"
rm "$mnt/back.img" "$mnt/plain.img"

# ---- with snapshots, which go on sharing ----
"$goldfs" clone "$mnt/golden/base.img" "$mnt/snap.img"
dd if=/dev/urandom of="$mnt/snap.img" bs=64K count=5 seek=3 conv=notrunc,fsync status=none
"$goldfs" snapshot create "$mnt/snap.img" then || fail "snapshot create"
dd if=/dev/urandom of="$mnt/snap.img" bs=64K count=5 seek=6 conv=notrunc,fsync status=none
sha256sum "$mnt/snap.img" "$mnt/.snapshots/snap.img/then" >snap.want
"$goldfs" convert "$mnt/snap.img" --mode thin || fail "convert a clone with a snapshot"
"$goldfs" settle "$mnt"
shares_nothing "$mnt/snap.img"
sha256sum -c --quiet snap.want || fail "a clone with a snapshot shows something else"
"$goldfs" snapshot rollback "$mnt/snap.img" then || fail "rollback of a thin copy"
cmp "$mnt/snap.img" "$mnt/.snapshots/snap.img/then" || fail "back it shows something else"
"$goldfs" rm --snapshots "$mnt/snap.img" || fail "rm --snapshots"

# ---- overtaken ----
"$goldfs" clone "$mnt/golden/base.img" "$mnt/over.img"
"$goldfs" snapshot create "$mnt/over.img" first
"$goldfs" convert "$mnt/over.img" --mode thin --rate 3M 2>err &
job=$!
await_state "$mnt/over.img" copying
"$goldfs" snapshot create "$mnt/over.img" amidst || fail "snapshot create"
wait "$job" || fail "a snapshot in the middle of it: $(cat err)"
[ "$(word "$mnt/over.img" mode)" = thin ] || fail "after a snapshot in the middle it is $(word "$mnt/over.img" mode)"
cmp "$mnt/over.img" "$images/base.img" || fail "a copy with a snapshot in the middle shows something else"
"$goldfs" snapshot rollback "$mnt/over.img" first || fail "rollback"
[ "$(word "$mnt/over.img" mode)" = snapshot ] || fail "back on its image it is $(word "$mnt/over.img" mode)"
"$goldfs" convert "$mnt/over.img" --mode thin --rate 3M 2>err &
job=$!
await_state "$mnt/over.img" copying
"$goldfs" snapshot rollback "$mnt/over.img" first || fail "rollback"
wait "$job" && fail "a copy of what was rolled back meanwhile is done"
grep -q 'over.img": it was rolled back' err || fail "it says: $(cat err)"
[ "$(word "$mnt/over.img" mode)" = snapshot ] || fail "rolled back meanwhile it is $(word "$mnt/over.img" mode)"
"$goldfs" convert "$mnt/over.img" --mode thin || fail "convert"
"$goldfs" refresh "$mnt/over.img" --onto "$mnt/golden/base.img" || fail "refresh"
[ "$(word "$mnt/over.img" mode)" = snapshot ] || fail "refreshed it is $(word "$mnt/over.img" mode)"
cmp "$mnt/over.img" "$images/base.img" || fail "refreshed it shows something else"
"$goldfs" rm --snapshots "$mnt/over.img" || fail "rm --snapshots"

# ---- without the image ----
sha256sum <"$mnt/thin.img" >thin.want
rm "$images/base.img"
"$goldfs" settle "$mnt"
[ -z "$(find "$store/golden" -type f -regex '.*/[0-9]+')" ] || fail "the store keeps the image"
sha256sum <"$mnt/thin.img" | cmp - thin.want || fail "without its image a thin copy shows something else"
umount_goldfs
"$goldfs" check "$store" || fail "check"
mount_goldfs
for n in thin full; do
	sha256sum <"$mnt/$n.img" | cmp - $n.want || fail "after a mount a $n copy shows something else"
	[ "$(word "$mnt/$n.img" mode)" = $n ] || fail "after a mount the mode is $(word "$mnt/$n.img" mode)"
done
"$goldfs" settle "$mnt"
[ "$(allocated)" -ge "$now" ] || fail "a mount gives places back"
umount_goldfs

# ---- on a disk that is full ----
truncate -s 256M small.fs
mkfs.ext4 -q small.fs || skip "needs mkfs.ext4"
mkdir small
mount -o loop small.fs small || skip "needs loop devices"
extra_mounts+=("$work/small")
store=$work/small/store
mkdir "$store"
golden big.img 64
mount_goldfs journal-size=8M
"$goldfs" clone "$mnt/golden/big.img" "$mnt/full.img"
truncate -s 40M "$mnt/full.img"
"$goldfs" convert "$mnt/full.img" --mode full || fail "a full copy that fits"
"$goldfs" clone "$mnt/golden/big.img" "$mnt/more.img"
truncate -s 1G "$mnt/more.img"
"$goldfs" convert "$mnt/more.img" --mode full 2>err && fail "a full copy that does not fit"
grep -q 'cannot convert ".*more.img": no space left on device; goldfs df' err || fail "it says: $(cat err)"
[ "$(word "$mnt/more.img" mode)" = snapshot ] || fail "what does not fit changes its mode"
cmp -n $((64 << 20)) "$images/big.img" "$mnt/more.img" || fail "what does not fit is changed"
dd if=/dev/urandom of="$mnt/fill.img" bs=1M 2>/dev/null && fail "the disk is never full"
dd if=/dev/urandom of=data bs=1M count=40 status=none
dd if=data of="$mnt/full.img" bs=4K conv=notrunc,fsync status=none || fail "a full copy finds no place"
"$goldfs" settle "$mnt" || true
cmp data "$mnt/full.img" || fail "a full copy on a full disk shows something else"
umount_goldfs
umount small

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 400 s
#
# Clones of clones: 100 of them, at depths from 1 to DEPTH, each with blocks of its own. Their golden
# image is removed from its folder, and nothing changes for them: not while somebody reads and writes,
# not when the worker is killed, not over an unmount, and not when any of their ancestors is removed.
# DEPTH= and SEED= say what they say.
. "$(dirname "$0")/work_lib.sh"

depth=${DEPTH:-66} seed=${SEED:-$RANDOM}
echo "SEED=$seed"
size=2 # MiB

cat >"$work/change.py" <<-'END'
	import os, random, sys
	for line in sys.stdin:
	    seed, *names = line.rstrip("\n").split("\t")
	    rng, size = random.Random(seed), int(sys.argv[1]) << 20
	    files = [os.open(name, os.O_WRONLY) for name in names]
	    for length in [4096] * 6 + [512, 65536, 70000, 3000]:
	        at = rng.randrange(size // 512 - 256) * 512
	        data = rng.randbytes(length) if rng.randrange(5) else bytes(length)
	        for fd in files:
	            os.pwrite(fd, data, at)
	    for fd in files:
	        os.close(fd)
	    print("done", flush=True)
END
coproc changer { exec python3 "$work/change.py" "$size"; }
pids=("$changer_PID")

# change FILE N COPY: blocks of file N's own, the same in the clone and in the plain copy.
change()
{
	local answer
	printf '%s\t%s\t%s\n' "$seed $2" "$1" "$3" >&"${changer[1]}"
	read -r answer <&"${changer[0]}" && [ "$answer" = done ] || fail "cannot change $1"
}

# same WHEN: every clone that is left reads as its plain copy.
same()
{
	local file
	for file in "$work"/plain/*; do
		cmp "$file" "$mnt/${file##*/}" || fail "$1: \"${file##*/}\" is not what it was, SEED=$seed"
	done
}

mkdir "$work/plain"
golden base.img $size
mount_goldfs
previous=$mnt/golden/base.img copy=$images/base.img
for ((i = 1; i <= depth; i++)); do
	name=$(printf 'deep%03d' "$i")
	"$goldfs" clone "$previous" "$mnt/$name"
	cp --sparse=always "$copy" "$work/plain/$name"
	change "$mnt/$name" "$i" "$work/plain/$name"
	previous=$mnt/$name copy=$work/plain/$name
done
# Others, of clones at random depths.
for ((i = 1; i <= 100 - depth; i++)); do
	name=$(printf 'side%03d' "$i")
	from=$(printf 'deep%03d' $((1 + (seed + i * 7919) % depth)))
	cp "$mnt/$from" "$mnt/$name"
	cp --sparse=always "$work/plain/$from" "$work/plain/$name"
	change "$mnt/$name" "side $i" "$work/plain/$name"
done
[ "$(ls "$mnt" | grep -c '^deep\|^side')" -eq $((depth < 100 ? 100 : depth)) ] || fail 'not all clones are there'
same 'after they were made'

# Readers and a writer meanwhile.
deepest=$(printf 'deep%03d' "$depth")
fio --name=reader --filename="$mnt/$deepest" --readonly --direct=1 --rw=randread --bs=4k --iodepth=4 --rate_iops=400 \
	--ioengine=libaio --time_based --runtime=600 --output=/dev/null &
pids+=($!)
rm "$images/base.img"
[ ! -e "$mnt/golden/base.img" ] || fail 'the image is still shown'
same 'after the image was removed'
figure "$mnt/$deepest" pinned_golden_bytes >/dev/null
"$goldfs" settle "$mnt"
for i in 3 $((depth / 2)) "$depth"; do
	name=$(printf 'deep%03d' "$i")
	change "$mnt/$name" "later $i" "$work/plain/$name"
done
kill_worker
same 'after the worker was killed'
kill "${pids[1]}"
wait "${pids[1]}" || true
pids=("$changer_PID")
umount_goldfs
mount_goldfs
same 'after a remount'

# Any ancestor can go, whoever stands on it.
for ((i = 1; i < depth; i += 3)); do
	name=$(printf 'deep%03d' "$i")
	rm "$mnt/$name" "$work/plain/$name"
done
"$goldfs" settle "$mnt"
same 'after ancestors were removed and it settled'
umount_goldfs
"$goldfs" check "$store" >/dev/null || fail "the store is damaged, SEED=$seed"
mount_goldfs

# When the last clone goes, so does what was pinned for them.
rm "$mnt"/deep* "$mnt"/side*
"$goldfs" settle "$mnt"
[ "$("$goldfs" df -j "$mnt" | jq .store.unique_bytes)" -eq 0 ] || fail 'something is left of the clones'
[ -z "$(find "$store/golden" -type f)" ] || fail 'the pin is left'
umount_goldfs

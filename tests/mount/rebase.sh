#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 240 s
#
# A fleet that was patched from inside goes to the patched image: every clone shows what it showed, closed,
# open and written to, the store gets back what is in the new image, and the old one can go. Snapshots stay
# what they are.
#
# Environment: CLONES (10, at least 5), MIB (24) of an image's data, PATCH (5: a fifth of them), OWN (4)
# blocks that each clone has for itself. A fleet: CLONES=50 MIB=64 PATCH=4 OWN=2
. "$(dirname "$0")/work_lib.sh"
need python3 sha256sum
clones=${CLONES:-10} mib=${MIB:-24} patch=${PATCH:-5} own=${OWN:-4}

physical()
{
	"$goldfs" df -j "$mnt" | jq '.store | .physical_bytes - .journal_bytes - .metadata_bytes'
}

# at_most WHAT VALUE BOUND
at_most()
{
	echo "$1: $2, at most $3"
	[ "$2" -le "$3" ] || fail "$1: $2, not at most $3"
}

# base PATH: the image that it stands on.
base()
{
	"$goldfs" stat -j "$1" | jq -r '.goldfs[0].base'
}

sums()
{
	(cd "$mnt" && sha256sum ./*.img)
}

# Images for the mount that the store holds.
pins()
{
	find "$store/golden" -type f -regex '.*/[0-9]+' | wc -l
}

# v2: a part of v1 changed at its place, and some more at its end.
make_image v1.img $((mib << 20))
python3 - "$images/v1.img" "$images/.v2.img" "$patch" <<-'END'
	import os, random, sys
	data = bytearray(open(sys.argv[1], 'rb').read())
	rng = random.Random(7)
	for block in rng.sample(range(len(data) // 4096), len(data) // 4096 // int(sys.argv[3])):
	    data[block * 4096:block * 4096 + 4096] = rng.randbytes(4096)
	data += rng.randbytes((1 << 20) + 1000)
	open(sys.argv[2], 'wb').write(data)
END
mv "$images/.v2.img" "$images/v2.img"
mount_goldfs journal-size=32M
"$goldfs" clone -n "$clones" "$mnt/golden/v1.img" "$mnt/c%03d.img"

# Patched from inside: what v2 has where it differs, but for a few blocks of their own.
python3 - "$images" "$mnt" "$clones" "$own" <<-'END'
	import os, random, sys
	v1, v2 = (open(f'{sys.argv[1]}/{name}.img', 'rb').read() for name in ('v1', 'v2'))
	different = [at for at in range(0, len(v1), 4096) if v1[at:at + 4096] != v2[at:at + 4096]]
	for n in range(1, int(sys.argv[3]) + 1):
	    fd = os.open(f'{sys.argv[2]}/c{n:03}.img', os.O_RDWR)
	    rng = random.Random(n)
	    for at in different:
	        os.pwrite(fd, v2[at:at + 4096], at)
	    for _ in range(int(sys.argv[4])):
	        os.pwrite(fd, rng.randbytes(4096), rng.randrange(len(v1) // 4096) * 4096)
	    os.fsync(fd)
	    os.close(fd)
END
"$goldfs" settle "$mnt"
before=$(physical)
sums >want

# ---- what it would come to ----
"$goldfs" upgrade-base --dry-run -j "$mnt/golden/v1.img" "$mnt/golden/v2.img" >plan.json || fail "--dry-run"
[ "$(jq '.goldfs | length' plan.json)" = "$clones" ] || fail "the plan: $(cat plan.json)"
[ "$(base "$mnt/c001.img")" = golden/v1.img ] || fail "--dry-run moves clones"

# ---- wrong input ----
mkdir "$mnt/dir"
"$goldfs" rebase "$mnt/c001.img" --onto "$mnt/c002.img" 2>err && fail "a clone is no golden image"
grep -q 'c002.img" is no golden image' err || fail "a clone as golden image: $(cat err)"
"$goldfs" upgrade-base "$mnt/golden/none.img" "$mnt/golden/v2.img" 2>err && fail "clones of no image move"
grep -q 'none.img": no such file' err || fail "no old image: $(cat err)"
"$goldfs" upgrade-base "$mnt/golden/v1.img" "$mnt/golden/v1.img" 2>err && fail "onto the same image"
grep -q 'v1.img" is the old image and the new one' err || fail "onto the same image: $(cat err)"
"$goldfs" upgrade-base "$mnt/golden/v1.img" "$mnt/c002.img" 2>err && fail "a clone as the new image"
grep -q 'c002.img" is no golden image' err || fail "a clone as the new image: $(cat err)"
"$goldfs" rebase "$mnt/dir" --onto "$mnt/golden/v2.img" 2>err && fail "a folder can be rebased"
"$goldfs" rebase "$mnt/golden/v1.img" --onto "$mnt/golden/v2.img" 2>err && fail "an image can be rebased"
"$goldfs" rebase "$mnt/c001.img" --onto "$mnt/golden/none.img" 2>err && fail "onto nothing"
printf 'QFI\373\0\0\0\3' >"$images/q.qcow2"
"$goldfs" rebase "$mnt/c001.img" --onto "$mnt/golden/q.qcow2" 2>err && fail "onto a qcow2 image"
grep -q qcow2 err || fail "a qcow2 image: $(cat err)"
chmod 755 "$mnt"
chmod 644 "$mnt"/c*.img
as_nobody "$goldfs" rebase "$mnt/c001.img" --onto "$mnt/golden/v2.img" 2>err &&
	fail "another user rebases a clone that he cannot write to"
as_nobody "$goldfs" upgrade-base -j "$mnt/golden/v1.img" "$mnt/golden/v2.img" >none.json 2>err || fail "$(cat err)"
[ "$(jq '.goldfs | length' none.json)" = 0 ] || fail "another user moves clones: $(cat none.json)"
[ "$(base "$mnt/c001.img")" = golden/v1.img ] || fail "a refused rebase moves a clone"

# ---- while clients write ----
python3 - "$mnt/c001.img" "$work/stop" <<-'END' &
	import os, random, sys
	fd = os.open(sys.argv[1], os.O_RDWR)
	rng, known, size = random.Random(1), {}, os.fstat(fd).st_size // 4096
	while not os.path.exists(sys.argv[2]) or len(known) < 500:
	    at = rng.randrange(size - 40)
	    n = rng.choice((1, 1, 2, 20))
	    data = rng.randbytes(n * 4096)
	    os.pwrite(fd, data, at * 4096)
	    for i in range(n):
	        known[at + i] = data[i * 4096:i * 4096 + 4096]
	    for at in rng.sample(sorted(known), min(20, len(known))):
	        if os.pread(fd, 4096, at * 4096) != known[at]:
	            sys.exit(f'block {at} is not what was written')
	for at in known:
	    if os.pread(fd, 4096, at * 4096) != known[at]:
	        sys.exit(f'in the end block {at} is not what was written')
END
writer=$!
pids+=("$writer")
"$goldfs" upgrade-base -j "$mnt/golden/v1.img" "$mnt/golden/v2.img" >done.json || fail "upgrade-base"
touch "$work/stop"
wait "$writer" || fail "a writer met something else"
[ "$(jq '[.goldfs[] | select(.error == "")] | length' done.json)" = "$clones" ] || fail "$(cat done.json)"
for n in $(seq "$clones"); do
	[ "$(base "$mnt/$(printf c%03d.img "$n")")" = golden/v2.img ] || fail "clone $n stands on v1"
done
grep -v c001.img want >want.others
sums | grep -v c001.img | cmp - want.others || fail "rebased clones show something else"
rm "$mnt/c001.img"
"$goldfs" settle "$mnt"
after=$(physical)
at_most "bytes of the fleet, of $before" "$after" $((before / 20 + (64 << 10)))

# ---- the old image can go ----
rm "$images/v1.img"
"$goldfs" settle "$mnt"
[ "$(pins)" = 1 ] || fail "the store keeps $(pins) images"
sums | cmp - want.others || fail "without v1 clones show something else"
umount_goldfs
"$goldfs" check "$store" || fail "check"
mount_goldfs
sums | cmp - want.others || fail "after a mount clones show something else"
[ "$(base "$mnt/c002.img")" = golden/v2.img ] || fail "after a mount a clone stands elsewhere"

# ---- killed in the middle, and gone on with ----
make_image v3.img $((mib << 20))
kills=0
"$goldfs" rebase --rate 4M "$mnt/c002.img" --onto "$mnt/golden/v3.img" &
job=$!
pids+=("$job")
while kill -0 "$job" 2>/dev/null && [ "$kills" -lt 3 ]; do
	[ "$("$goldfs" stat -j "$mnt/c002.img" | jq -r '.goldfs[0].state')" = rebasing ] || continue
	kill_worker
	kills=$((kills + 1))
done
wait "$job" || fail "a rebase does not survive its worker"
echo "killed $kills times"
[ "$kills" -gt 0 ] || fail "the worker was never killed in the middle"
[ "$(base "$mnt/c002.img")" = golden/v3.img ] || fail "it did not come to its end"
sums | cmp - want.others || fail "after deaths of workers clones show something else"

# ---- given up, it is what it was ----
"$goldfs" settle "$mnt"
unique=$(figure "$mnt/c003.img" unique_bytes)
id=$("$goldfs" rebase --background --rate 1M "$mnt/c003.img" --onto "$mnt/golden/v3.img")
until [ "$("$goldfs" stat -j "$mnt/c003.img" | jq -r '.goldfs[0].state')" = rebasing ]; do
	sleep 0.05
done
"$goldfs" job cancel "$id" "$mnt" || fail "job cancel"
"$goldfs" job wait "$id" "$mnt" 2>/dev/null && fail "a cancelled job is done"
[ "$(base "$mnt/c003.img")" = golden/v2.img ] || fail "a cancelled rebase moves a clone"
"$goldfs" settle "$mnt"
at_most "unique bytes after a cancelled rebase" "$(figure "$mnt/c003.img" unique_bytes)" "$unique"
sums | cmp - want.others || fail "a cancelled rebase changes what is shown"

# ---- begun, and gone on with by the next mount ----
id=$("$goldfs" rebase --background --rate 4M "$mnt/c004.img" --onto "$mnt/golden/v3.img")
until [ "$("$goldfs" stat -j "$mnt/c004.img" | jq -r '.goldfs[0].state')" = rebasing ]; do
	sleep 0.05
done
umount_goldfs
"$goldfs" check "$store" || fail "check of a store with a rebase under way"
mount_goldfs
for _ in $(seq 1200); do
	[ "$(base "$mnt/c004.img")" != golden/v3.img ] || break
	sleep 0.1
done
[ "$(base "$mnt/c004.img")" = golden/v3.img ] || fail "the next mount does not go on"
sums | cmp - want.others || fail "what the next mount went on with shows something else"

# ---- snapshots stay where they are ----
snaps=$mnt/.snapshots/c005.img

# write_some SEEK
write_some()
{
	dd if=/dev/urandom of="$mnt/c005.img" bs=64K count=3 seek="$1" conv=notrunc,fsync status=none
}

"$goldfs" snapshot create "$mnt/c005.img" first || fail "snapshot create"
write_some 11
"$goldfs" snapshot create "$mnt/c005.img" second || fail "snapshot create"
write_some 40
"$goldfs" clone "$mnt/c005.img" "$mnt/copy.img" || fail "clone"
write_some 12
sha256sum "$snaps/first" "$snaps/second" "$mnt/copy.img" >stay.want
sha256sum "$mnt/c005.img" >move.want
"$goldfs" rebase "$mnt/c005.img" --onto "$mnt/golden/v3.img" || fail "rebase of a clone with snapshots"
[ "$(base "$mnt/c005.img")" = golden/v3.img ] || fail "with snapshots it stands on $(base "$mnt/c005.img")"
[ "$(base "$mnt/copy.img")" = golden/v2.img ] || fail "a clone of it stands on $(base "$mnt/copy.img")"
sha256sum -c --quiet stay.want move.want || fail "with snapshots it shows something else"
"$goldfs" settle "$mnt"
sha256sum -c --quiet stay.want move.want || fail "settled, it shows something else"
"$goldfs" snapshot rollback "$mnt/c005.img" first || fail "back to before the rebase"
cmp "$mnt/c005.img" "$snaps/first" || fail "back before the rebase it shows something else"
[ "$(base "$mnt/c005.img")" = golden/v2.img ] || fail "back it stands on $(base "$mnt/c005.img")"
auto=$(find "$snaps" -name 'auto-*')
[ "$(sha256sum <"$auto")" = "$(sha256sum <"$mnt/c005.img")" ] && fail "what it left is what it went back to"
"$goldfs" upgrade-base "$mnt/golden/v2.img" "$mnt/golden/v3.img" || fail "upgrade-base with snapshots"
"$goldfs" snapshot rollback "$mnt/c005.img" "${auto##*/}" || fail "forward again"
sha256sum -c --quiet stay.want move.want || fail "forward again it shows something else"
"$goldfs" snapshot delete "$mnt/c005.img" first || fail "snapshot delete"
"$goldfs" settle "$mnt"
grep -v /first stay.want | sha256sum -c --quiet - || fail "without the first snapshot another shows something else"

# ---- a dry run says what clones hold together, too ----
make_image w1.img $((4 << 20))
"$goldfs" clone -n 4 "$mnt/golden/w1.img" "$mnt/w%d.img"
head -c 2M /dev/urandom >patch
for n in 1 2 3 4; do
	dd if=patch of="$mnt/w$n.img" bs=1M seek=1 conv=notrunc,fsync status=none
	dd if=/dev/urandom of="$mnt/w$n.img" bs=4k count="$n" conv=notrunc,fsync status=none
done
"$goldfs" settle "$mnt"
cp "$images/w1.img" "$images/.w2.img"
dd if=patch of="$images/.w2.img" bs=1M seek=1 conv=notrunc status=none
mv "$images/.w2.img" "$images/w2.img"
"$goldfs" upgrade-base --dry-run -j "$mnt/golden/w1.img" "$mnt/golden/w2.img" >plan.json || fail "--dry-run"
held=$("$goldfs" stat --if-removed -j "$mnt"/w?.img | jq .if_removed_bytes)
"$goldfs" upgrade-base -j "$mnt/golden/w1.img" "$mnt/golden/w2.img" >done.json || fail "upgrade-base"
"$goldfs" settle "$mnt"
held=$((held - $("$goldfs" stat --if-removed -j "$mnt"/w?.img | jq .if_removed_bytes)))
[ "$held" -ge $((2 << 20)) ] || fail "all together gain $held bytes"
for file in plan.json done.json; do
	[ "$(jq '[.goldfs[].gain_bytes] | add' $file)" -eq $held ] || fail "$held bytes are not what $file says: $(cat $file)"
done
umount_goldfs
"$goldfs" check "$store" || fail "check at the end"

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 240 s
#
# New content is stored once, whoever writes it and however: in large writes, in small synced ones, at
# other places; what a golden image has is not stored at all; and space comes back.
#
# Environment: CLONES (12), MIB (8) of new data that each writes.
. "$(dirname "$0")/work_lib.sh"
need python3
clones=${CLONES:-12} mib=${MIB:-8}

# physical: bytes of the store without the journal's ring.
physical()
{
	"$goldfs" df -j "$mnt" | jq '.store | .physical_bytes - .journal_bytes'
}

# total KEY: one figure of the store.
total()
{
	"$goldfs" df -j "$mnt" | jq ".store.$1"
}

# at_most WHAT VALUE BOUND
at_most()
{
	echo "$1: $2, at most $3"
	[ "$2" -le "$3" ] || fail "$1: $2, not at most $3"
}

# write_data FILE HOW BLOCKS: what is in $work/data, from that block on.
write_data()
{
	python3 - "$work/data" "$1" "$2" "$3" <<-'END'
		import os, random, sys
		data, name, how, at = open(sys.argv[1], 'rb').read(), sys.argv[2], sys.argv[3], int(sys.argv[4]) * 4096
		fd = os.open(name, os.O_RDWR)
		rng = random.Random(len(name) + at)
		pos = 0
		while pos < len(data):
		    n = {'large': 1 << 20, 'small': 4096}.get(how) or rng.choice((4096, 8192, 65536, 262144, 1 << 20))
		    os.pwrite(fd, data[pos:pos + n], at + pos)
		    if how == 'small':
		        os.fdatasync(fd)
		    pos += n
		os.fsync(fd)
	END
}

golden base.img $((mib + 24))
mount_goldfs journal-size=32M
"$goldfs" settle "$mnt"
empty=$(physical)
head -c "${mib}M" /dev/urandom >data
bytes=$((mib << 20))

# The same new data in all clones.
"$goldfs" clone -n "$clones" "$mnt/golden/base.img" "$mnt/c%03d.img"
"$goldfs" settle "$mnt"
before=$(physical)
high=0
for n in $(seq "$clones"); do
	how=mixed at=$((n % 7))
	[ "$n" = 1 ] && how=large at=0
	[ "$n" = 2 ] && how=small at=0
	write_data "$(printf '%s/c%03d.img' "$mnt" "$n")" $how $at
	now=$(($(physical) - before))
	[ "$now" -le "$high" ] || high=$now
done
at_most "growth on the way" $high $((3 * bytes + (16 << 20)))
"$goldfs" settle "$mnt"
at_most "growth when settled" $(($(physical) - before)) $((bytes * 21 / 20 + (16 << 20)))
for n in $(seq "$clones"); do
	at=$((n % 7))
	[ "$n" -gt 2 ] || at=0
	cmp -n "$bytes" -i 0:$((at * 4096)) data "$(printf '%s/c%03d.img' "$mnt" "$n")" ||
		fail "clone $n does not hold what was written"
done
[ "$(figure "$mnt/c003.img" unique_bytes)" -lt $((bytes / 20)) ] || fail "a clone holds the data alone"

# What remains when all but one have gone is that one's.
predicted=$("$goldfs" stat -j --if-removed "$mnt"/c*.img | jq '.goldfs[0].if_removed_bytes // .if_removed_bytes')
for n in $(seq 2 "$clones"); do
	rm "$(printf '%s/c%03d.img' "$mnt" "$n")"
done
unique=$(figure "$mnt/c001.img" unique_bytes)
"$goldfs" settle "$mnt"
[ "$(figure "$mnt/c001.img" unique_bytes)" = "$unique" ] || fail "unique bytes changed by settling"
[ "$unique" -ge $((bytes * 9 / 10)) ] || fail "the last holder's data is not its own: $unique"
rm "$mnt/c001.img"
"$goldfs" settle "$mnt"
at_most "what is left of $predicted bytes" $(($(physical) - empty)) $((1 << 20))
[ "$(total pool_bytes)" = 0 ] || fail "the empty pool takes space"

# A clone whose blocks are the image's, elsewhere.
cp "$mnt/golden/base.img" "$mnt/shifted.img"
for _ in $(seq 100); do
	[ -z "$(find "$store/index" -type f ! -name '*.tmp*')" ] || break
	sleep 0.1
done
python3 - "$images/base.img" "$mnt/shifted.img" <<-'END'
	import os, sys
	data = open(sys.argv[1], 'rb').read()
	fd = os.open(sys.argv[2], os.O_RDWR)
	for at in range(0, len(data), 1 << 20):
	    piece = data[at:at + (1 << 20)]
	    os.pwrite(fd, piece, (at + 5 * 4096) % len(data)) if at + 5 * 4096 + len(piece) <= len(data) else None
	os.fsync(fd)
END
"$goldfs" settle "$mnt"
at_most "unique bytes of a shifted clone" "$(figure "$mnt/shifted.img" unique_bytes)" \
	$(($(figure "$mnt/shifted.img" virtual_bytes) / 100))

# An image that was never cloned, copied in from outside.
mkdir "$images/more"
golden other.img 24
mv "$images/other.img" "$images/more/other.img"
cp "$images/more/other.img" "$mnt/copied.img"
"$goldfs" settle "$mnt"
cmp "$images/more/other.img" "$mnt/copied.img" || fail "the copy is another"
at_most "unique bytes of a copied image" "$(figure "$mnt/copied.img" unique_bytes)" $(((24 << 20) / 100))

# Over a remount everything reads the same, and references are counted again. What is shared is shared
# with those who come later, too.
mkdir "$mnt/early"
for n in 1 2; do
	cp "$mnt/golden/base.img" "$mnt/early/$n.img"
	dd if=data of="$mnt/early/$n.img" bs=1M conv=notrunc,fsync status=none
done
"$goldfs" settle "$mnt"
sum=$(sha256sum <"$mnt/shifted.img")
umount_goldfs
"$goldfs" check "$store" >check.log || fail "check: $(cat check.log)"
mount_goldfs
[ "$(sha256sum <"$mnt/shifted.img")" = "$sum" ] || fail "the shifted clone has changed"
"$goldfs" settle "$mnt"
cp "$mnt/golden/base.img" "$mnt/early/3.img"
dd if=data of="$mnt/early/3.img" bs=1M conv=notrunc,fsync status=none
cmp -n "$bytes" data "$mnt/early/3.img" || fail "what is shared after a mount is another"
at_most "unique bytes of what comes after a mount" "$(figure "$mnt/early/3.img" unique_bytes)" $((bytes / 20))
rm -r "$mnt/early"
"$goldfs" settle "$mnt"

# What stood in one clone at the mount, and was shared with nobody, comes to be known, too.
cp "$mnt/golden/base.img" "$mnt/alone.img"
head -c 4M /dev/urandom >alone
dd if=alone of="$mnt/alone.img" bs=1M conv=notrunc,fsync status=none
"$goldfs" settle "$mnt"
umount_goldfs
mount_goldfs
cp "$mnt/golden/base.img" "$mnt/follows.img"
# Another piece each time: what was written a moment ago is known anyway.
for n in $(seq 0 63); do
	dd if=alone of="$mnt/follows.img" bs=64K skip="$n" seek="$n" count=1 conv=notrunc,fsync status=none
	"$goldfs" settle "$mnt"
	[ "$(figure "$mnt/alone.img" unique_bytes)" -eq $((4 << 20)) ] || break
	[ "$n" -lt 63 ] || fail "what stands in a clone is not known after a mount"
	sleep 0.3
done
rm "$mnt/follows.img" "$mnt/alone.img"
"$goldfs" settle "$mnt"

# What was stored while dedup was off is found when somebody asks for it.
umount_goldfs
mount_goldfs dedup=off
mkdir "$mnt/late"
for n in 1 2 3; do
	cp "$mnt/golden/base.img" "$mnt/late/$n.img"
	dd if=data of="$mnt/late/$n.img" bs=1M conv=notrunc,fsync status=none
done
"$goldfs" settle "$mnt"
[ "$(figure "$mnt/late/1.img" unique_bytes)" = $bytes ] || fail "dedup=off shares"
"$goldfs" dedup "$mnt/late" 2>off.txt && fail "goldfs dedup works although dedup is off"
grep -q 'is mounted with dedup=off, mount it without to share$' off.txt || fail "goldfs dedup says: $(cat off.txt)"
umount_goldfs
mount_goldfs
before=$(physical)
"$goldfs" dedup "$mnt/late" || fail "goldfs dedup"
for n in 1 2 3; do
	[ "$(figure "$mnt/late/$n.img" unique_bytes)" -lt $((bytes / 20)) ] || fail "$n.img keeps its own"
	cmp -n "$bytes" data "$mnt/late/$n.img" || fail "$n.img has changed"
done
at_most "bytes after goldfs dedup" $(($(physical) - before + 2 * bytes)) $((1 << 20))
"$goldfs" scrub "$mnt" >/dev/null || fail "scrub finds something"
umount_goldfs

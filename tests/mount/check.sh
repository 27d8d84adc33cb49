#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs check: which store is meant, what it says and with which exit status, that it writes
# nothing, and what --repair mends.
. "$(dirname "$0")/lib.sh"
setup "$1"

# check STATUS ARGUMENT…: runs it; what it says is in out and err.
check()
{
	local want=$1 status
	shift
	timeout 60 "$goldfs" check "$@" >out 2>err
	status=$?
	[ $status -eq "$want" ] || fail "check $* ended with $status, not $want: $(cat out err)"
	if [ "$want" -eq 1 ] || [ "$want" -eq 2 ]; then
		[ ! -s out ] || fail "check $* failed and yet said something on stdout: $(cat out)"
		grep -q '^goldfs: [^ A-Z]' err || fail "check $* said: $(cat err)"
	fi
}

# says FILE TEXT
says()
{
	grep -qF -- "$2" "$1" || fail "\"$2\" is not among: $(cat "$1")"
}

# flip FILE OFFSET: one bit, in a file of the store.
flip()
{
	python3 - "$store/$1" "$2" <<-'END' || fail "cannot damage $1"
		import sys
		with open(sys.argv[1], 'r+b') as f:
		    f.seek(int(sys.argv[2]))
		    byte = f.read(1)
		    f.seek(int(sys.argv[2]))
		    f.write(bytes([byte[0] ^ 4]))
	END
}

# What a check must not change: names, sizes, times and content of everything in the store.
state_of()
{
	(cd "$1" && find . -printf '%p %m %s %T@ %C@\n' | sort && find . -type f -exec cksum {} + | sort)
}

# ---- which store ----

check 2
check 2 "$store" "$store"
check 2 --frobnicate "$store"
check 2 -o nonsense "$store"
check 1 "$work/nothing"
says err 'no such file or directory'
check 1 "$store"
says err 'holds no store'
check 1 "$images"
says err 'holds no store'
touch file
check 1 file
says err 'is not a folder'
"$goldfs" check --help >out || fail "no help"
says out 'goldfs check [OPTION...] STORE'

make_image a.img 3000000
mount_goldfs
cp "$mnt/golden/a.img" "$mnt/one.img"
cp "$mnt/golden/a.img" "$mnt/two.img"
dd if=/dev/urandom of="$mnt/one.img" bs=64k count=4 conv=notrunc,fsync status=none
dd if=/dev/urandom of="$mnt/two.img" bs=4k count=9 seek=3 conv=notrunc,fsync status=none
cp "$mnt/one.img" "$mnt/child.img"
dd if=/dev/urandom of="$mnt/one.img" bs=4k count=2 seek=100 conv=notrunc,fsync status=none

# ---- in use ----

check 1 "$store"
says err "is in use by process $(daemon_pid)"
says err 'goldfs scrub'
check 1 --repair "$store"
says err 'is in use'
check 1 "$mnt"
says err "is a mount; run \"goldfs scrub $mnt\""
says err "$store"

# ---- after the death of the daemon: the journal has what the rest has not ----

sums=$(cksum "$mnt"/*.img | sed "s|$mnt/||")
"$goldfs" umount "$mnt" || fail "cannot unmount"
check 0 "$store"
says out 'no damage'
says out '3 files'
grep 'does not belong' out && fail "files of the store are strange to the check"

# ---- nothing is written ----

before=$(state_of "$store")
check 0 "$store"
rm "$store/lock"
check 0 "$store"
[ ! -e "$store/lock" ] || fail "a check made a lock file"
touch -r "$store/superblock" "$store"
before=$(state_of "$store")
check 0 "$store"
check 0 -j "$store"
[ "$before" = "$(state_of "$store")" ] || fail "a check changed the store"

# Of a store that may only be read, as its owner reads it: a copy on a read-only file system.
mkdir ro
mount --bind "$store" ro && mount -o remount,bind,ro ro || skip "no bind mounts"
extra_mounts+=("$work/ro")
check 0 ro
says out 'no damage'
umount ro
chmod 700 "$store"
as_nobody timeout 60 "$goldfs" check "$store" >out 2>err && fail "another user may check the store"
says err 'permission denied'

# ---- a folder of images ----

mkdir default
cp "$images/a.img" default/
cp -a "$store" default/.goldfs
check 0 default
says err "checking its store \"$work/default/.goldfs\""

# ---- what is referred to by nothing is no damage, and repair frees it ----

head -c 100000 /dev/urandom >"$store/layer/1234567.data"
echo hello >"$store/readme"
check 0 "$store"
says out 'layer/1234567.data'
says out 'nothing refers to this file'
says out 'to do: --repair frees it'
says out 'readme'
says out 'no damage'
check 0 --repair "$store"
[ ! -e "$store/layer/1234567.data" ] || fail "the orphan is still there"
[ -e "$store/readme" ] || fail "a strange file was removed"
says out '[repaired]'
rm "$store/readme"

# ---- a mount after a crash frees it as well ----

mount_goldfs
dd if=/dev/urandom of="$mnt/two.img" bs=4k count=1 seek=3 conv=notrunc,fsync status=none
sums=$(cksum "$mnt"/*.img | sed "s|$mnt/||")
kill_daemon
"$goldfs" umount "$mnt" 2>/dev/null || umount -l "$mnt"
data=$(find "$store/layer" -name '*.data' | sort | head -n 1)
dd if=/dev/urandom of="$data" bs=4k count=5 seek=500 conv=notrunc status=none
head -c 9999 /dev/urandom >"$store/layer/7654321.data"
head -c 9999 /dev/urandom >"$store/golden/1.tmp"
head -c 9999 /dev/urandom >"$store/golden/99"
check 0 "$store"
says out '5 blocks take space and nothing refers to them'
says out 'to do: the next mount, or --repair, frees it'
says out 'golden/1.tmp'
mount_goldfs
"$goldfs" settle "$mnt" || fail "cannot settle"
[ "$sums" = "$(cksum "$mnt"/*.img | sed "s|$mnt/||")" ] || fail "files changed"
umount_goldfs
for file in layer/7654321.data golden/1.tmp golden/99; do
	[ ! -e "$store/$file" ] || fail "$file is still there after a mount"
done
check 0 "$store"
grep -q 'take space' out && fail "space is still taken: $(cat out)"

# ---- damage: named, and repaired where that is possible ----

layer=$(find "$store/layer" -name '*.data' -size +200k | sort | head -n 1)
layer=${layer##*/}
layer=${layer%.data}
flip superblock 50
flip catalog.0 4200
flip "layer/$layer.sum" 8
check 3 "$store"
says out 'the superblock is damaged'
says out 'this copy of the catalog is damaged'
says out '3 damaged'
check 3 -j "$store"
python3 - <<'END' || fail "JSON: $(cat out)"
import json
doc = json.load(open('out'))
assert doc['summary']['damaged'] == 3, doc
kinds = sorted(f['structure'] for f in doc['findings'] if f['severity'] == 'damage')
assert kinds == ['catalog', 'checksum', 'superblock'], kinds
for f in doc['findings']:
    assert f['state'] == 'repairable' and f['action'] and isinstance(f['paths'], list), f
END
check 3 -n -o structure,place "$store"
[ "$(sort out | tr -s ' ' | paste -sd,)" = "catalog catalog.0,checksum layer/$layer.sum,superblock superblock" ] ||
	fail "columns: $(cat out)"
before=$(state_of "$store")
check 3 "$store"
[ "$before" = "$(state_of "$store")" ] || fail "a check changed a damaged store"
check 0 --repair "$store"
says out '3 repaired'
says out 'no damage'
saved=$(find "$store" -maxdepth 1 -name 'repair.*' | sort | tail -n 1)
[ -s "$saved/superblock" ] && [ -s "$saved/catalog.0" ] && [ -s "$saved/layer-$layer.sum" ] ||
	fail "what was replaced was not kept: $(find "$saved")"
check 0 "$store"
mount_goldfs
[ "$sums" = "$(cksum "$mnt"/*.img | sed "s|$mnt/||")" ] || fail "a repair changed what files hold"
umount_goldfs

# ---- bytes that are wrong: those who show them are named, nobody else is concerned ----

flip "layer/$layer.data" 9000
check 3 "$store"
says out "layer/$layer.data"
says out 'concerns: child.img, one.img'
check 3 --repair "$store"
says out 'lost to damage'
check 3 "$store"
mount_goldfs
cat "$mnt/one.img" >/dev/null 2>err && fail "wrong bytes were read"
cmp <(cksum <"$mnt/two.img") <(echo "$sums" | sed -n 's/ two.img$//p') || fail "two.img was touched"
"$goldfs" scrub "$mnt" >out 2>&1 && fail "scrub is silent about what a repair gave up: $(cat out)"
says out 'lost to damage'
dd if="$mnt/one.img" bs=4k skip=3 status=none | cmp - <(dd if="$mnt/one.img" bs=4k skip=3 status=none) ||
	fail "what is behind the damage cannot be read"
# Writing it anew mends it.
dd if=/dev/zero of="$mnt/one.img" bs=4k seek=2 count=1 conv=notrunc,fsync status=none ||
	fail "a lost block cannot be written"
rm "$mnt/child.img" || fail "a damaged file cannot be removed"
cat "$mnt/one.img" >/dev/null || fail "what was written anew cannot be read"
"$goldfs" scrub "$mnt" >out 2>&1 || fail "scrub of what was written anew: $(cat out)"
"$goldfs" settle "$mnt" || fail "a store with damage cannot settle"
umount_goldfs
check 0 "$store"

# ---- what cannot be looked at ----

python3 - "$store" <<'END'
import sys, os
for name in ('superblock', 'superblock.copy'):
    with open(os.path.join(sys.argv[1], name), 'r+b') as f:
        f.seek(8)
        f.write((99).to_bytes(4, 'little'))
END
check 1 "$store"
says err 'newer goldfs'
rm "$store/superblock" "$store/superblock.copy"
check 3 "$store"
says out 'the superblock is missing'

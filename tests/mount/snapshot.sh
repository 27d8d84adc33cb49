#!/bin/bash
# SPDX-License-Identifier: MIT
#
# goldfs snapshot, rm --snapshots and refresh: all verbs, wrong input, other users, what rename and
# removal leave, readers with cached pages, a worker that is killed amidst.

. "$(dirname "$0")/lib.sh"

sum_of()
{
	sha256sum <"$1"
}

# same FILE WHAT: FILE is what sums[WHAT] says.
declare -A sums
note() { sums[$2]=$(sum_of "$1"); }
same() { [ "$(sum_of "$1")" = "${sums[$2]}" ] || fail "$1 is not \"$2\""; }

put()
{
	dd if=/dev/urandom of="$1" bs=64K count="${2:-4}" seek="${3:-0}" conv=notrunc,fsync status=none ||
		fail "cannot write $1"
}

# refused PATTERN COMMAND…: fails, says so, and prints nothing.
refused()
{
	local pattern=$1 r=0
	shift
	"$@" >"$work/out" 2>"$work/err" || r=$?
	[ $r -ne 0 ] || fail "\"$*\" is not refused"
	[ ! -s "$work/out" ] || fail "\"$*\" fails and prints"
	grep -qE "$pattern" "$work/err" || fail "\"$*\" says: $(cat "$work/err")"
}

snap()
{
	"$goldfs" snapshot "$@" || fail "snapshot $*"
}

# field CLONE NAME KEY
field()
{
	"$goldfs" snapshot list -j "$1" | jq -r ".goldfs[] | select(.name == \"$2\") | .$3"
}

setup "$1"
command -v jq >/dev/null || skip "needs jq"
make_image base.img $((8 << 20)) 64
make_image two.img $((6 << 20)) 32
mount_goldfs
snaps=$mnt/.snapshots
a=$mnt/a.img
cp "$mnt/golden/base.img" "$a" || fail cp
[ -z "$(ls "$snaps")" ] || fail "there are snapshots already"

# ---- back and forth
# Older versions refuse the store before there is a snapshot: the first one is not to wait for that.
features() { od -An -tu8 -j32 -N8 "$store/superblock"; }
[ $(($(features) & 2)) = 2 ] || fail "the store does not say that it may have snapshots"
note "$a" golden
snap create "$a" zero
put "$a" 8; note "$a" one; snap create "$a" one
put "$a" 8 4; note "$a" two
kept=$("$goldfs" snapshot rollback "$a" one) || fail rollback
same "$a" one
auto=$(sed -n 's/^what was there is kept as "\(.*\)", to go there again:$/\1/p' <<<"$kept")
[ -n "$auto" ] || fail "no hint: $kept"
same "$snaps/a.img/$auto" two
same "$snaps/a.img/one" one
same "$snaps/a.img/zero" golden
[ "$(field "$a" one current)" = true ] || fail "the position is not \"one\""
[ "$(field "$a" one parent)" = zero ] || fail "one stands on $(field "$a" one parent)"
[ "$(field "$a" "$auto" parent)" = one ] || fail "$auto stands on $(field "$a" "$auto" parent)"
[ "$(field "$a" "$auto" automatic)" = true ] || fail "$auto is not automatic"
# Nothing was written: nothing more is kept, and the hint names what shows it.
"$goldfs" snapshot rollback "$a" "$auto" | grep -q '"one"' || fail "another one is kept"
same "$a" two
[ "$(ls "$snaps/a.img" | wc -l)" = 3 ] || fail "there are $(ls "$snaps/a.img")"
# The line of the hint is a command.
eval "$(sed -n '2s/goldfs/"$goldfs"/p' <<<"$kept")" >/dev/null || fail "the hint is no command"
odd=$mnt/"it's \\"$'\n\033[1m'
cp "$mnt/golden/base.img" "$odd" && snap create "$odd" one && put "$odd" 8 || fail "cannot write to an odd name"
odd_kept=$("$goldfs" snapshot rollback "$odd" one) || fail "rollback of an odd name"
! grep -q $'\033' <<<"$odd_kept" || fail "the hint speaks to the terminal"
eval "$(sed -n '2s/goldfs/"$goldfs"/p' <<<"$odd_kept")" >/dev/null || fail "the hint is no command: $odd_kept"
"$goldfs" rm --snapshots "$odd" || fail "rm --snapshots of an odd name"
put "$a" 2 40; note "$a" three
snap rollback "$a" zero >/dev/null; same "$a" golden
snap list "$a" >"$work/list" || fail list
grep -q 'one' "$work/list" && grep -qE 'zero +\*' "$work/list" || fail "list: $(cat "$work/list")"

# ---- read-only files
[ "$(stat -c %a "$snaps/a.img/one")" = 444 ] || fail "mode of a snapshot"
! { : >>"$snaps/a.img/one"; } 2>/dev/null || fail "a snapshot can be written"
! rm -f "$snaps/a.img/one" 2>/dev/null || fail "a snapshot can be removed"
! mkdir "$snaps/x" 2>/dev/null || fail "mkdir in .snapshots"
! mv "$snaps/a.img/one" "$mnt/x" 2>/dev/null || fail "a snapshot can be moved"
! chmod 600 "$snaps/a.img/one" 2>/dev/null || fail "chmod of a snapshot"

# ---- clones of snapshots
cp "$snaps/a.img/one" "$mnt/cp.img" || fail "cp of a snapshot"
"$goldfs" clone "$snaps/a.img/$auto" "$mnt/clone.img" || fail "clone of a snapshot"
same "$mnt/cp.img" one
[ "$("$goldfs" stat -j "$mnt/cp.img" | jq .goldfs[0].unique_bytes)" = 0 ] || fail "cp copied bytes"
same "$mnt/clone.img" two
put "$mnt/clone.img" 1; same "$snaps/a.img/$auto" two

# ---- rename, delete
snap rename "$a" "$auto" kept
same "$snaps/a.img/kept" two
[ "$(field "$a" kept automatic)" = false ] || fail "a named one is automatic"
refused 'is a directory' "$goldfs" snapshot list "$mnt"
refused 'has no snapshot' "$goldfs" snapshot delete "$a" nothing
refused 'has a snapshot "one" already' "$goldfs" snapshot rename "$a" kept one
refused 'has a snapshot "one" already' "$goldfs" snapshot create "$a" one
"$goldfs" settle "$mnt" || fail settle
freed=$("$goldfs" snapshot delete --dry-run -j "$a" one kept | jq .if_removed_bytes)
same "$snaps/a.img/one" one
snap delete "$a" one
[ "$(field "$a" kept parent)" = zero ] || fail "kept stands on $(field "$a" kept parent)"
same "$snaps/a.img/kept" two
snap delete "$a" kept
rm "$mnt/cp.img" "$mnt/clone.img"
"$goldfs" settle "$mnt" || fail settle
[ "${freed:-x}" -ge 0 ] || fail "--dry-run says ${freed:-nothing}"
[ ! -e "$snaps/a.img/one" ] && [ -e "$snaps/a.img/zero" ] || fail "delete"

# ---- what a dry run says is what comes back
b=$mnt/b.img
cp "$mnt/golden/base.img" "$b" && put "$b" 16 || fail b
snap create "$b" s; put "$b" 16
"$goldfs" settle "$mnt" || fail settle
freed=$("$goldfs" snapshot delete --dry-run -n -b "$b" s | tr -d " ")
unique=$(field "$b" s unique_bytes)
[ "$freed" = $((1 << 20)) ] && [ "$unique" = "$freed" ] || fail "frees $freed, unique $unique"
[ "$("$goldfs" stat -j "$b" | jq .goldfs[0].snapshots)" = 1 ] || fail "stat: number of snapshots"
before=$(du -s --block-size=1 "$store/layer" "$store/pool" | awk '{n += $1} END {print n}')
snap delete "$b" s
"$goldfs" settle "$mnt" || fail settle
after=$(du -s --block-size=1 "$store/layer" "$store/pool" | awk '{n += $1} END {print n}')
[ $((before - after)) -ge "$freed" ] || fail "$((before - after)) bytes came back, not $freed"
[ ! -e "$snaps/b.img" ] || fail "an empty folder is left"

# ---- a limit is one for snapshots, too
mkdir "$mnt/small" && cp "$mnt/golden/base.img" "$mnt/small/x" || fail small
"$goldfs" limit "$mnt/small" 4M || fail limit
put "$mnt/small/x" 40; snap create "$mnt/small/x" s
! dd if=/dev/urandom of="$mnt/small/x" bs=64K count=40 conv=notrunc,fsync status=none 2>/dev/null ||
	fail "a snapshot and its clone have more than the limit"
snap delete "$mnt/small/x" s; put "$mnt/small/x" 40
"$goldfs" rm --snapshots "$mnt/small/x" && rmdir "$mnt/small" || fail rmdir

# ---- one instant for several
cp "$mnt/golden/base.img" "$mnt/c.img"
python3 - "$b" "$mnt/c.img" "$work/go" <<-'END' &
	# The same number to both, one after the other, until the end.
	import os, sys
	fds = [os.open(p, os.O_WRONLY) for p in sys.argv[1:3]]
	open(sys.argv[3], "w").close()
	n = 0
	while os.path.exists(sys.argv[3]):
	    n += 1
	    for fd in fds:
	        os.pwrite(fd, n.to_bytes(8, "little"), 4096)
END
writer=$!
until [ -e "$work/go" ]; do sleep 0.01; done
for i in 1 2 3 4 5 6; do snap create "$b" "$mnt/c.img" "at$i"; done
rm "$work/go"; wait $writer
for i in 1 2 3 4 5 6; do
	python3 - "$snaps/b.img/at$i" "$snaps/c.img/at$i" <<-'END' || fail "at$i is not one instant"
		import sys
		x, y = (int.from_bytes(open(p, "rb").read()[4096:4104], "little") for p in sys.argv[1:3])
		sys.exit(not (x == y or x == y + 1))
	END
done

# ---- names: what moves, stays, goes aside
mkdir "$mnt/d"
mv "$mnt/c.img" "$mnt/d/moved.img" || fail mv
[ -e "$snaps/d/moved.img/at1" ] && [ ! -e "$snaps/c.img" ] || fail "snapshots did not move along"
mv "$mnt/d" "$mnt/e" || fail "mv of a folder"
[ -e "$snaps/e/moved.img/at1" ] && [ ! -e "$snaps/d" ] || fail "snapshots did not move with the folder"
note "$snaps/e/moved.img/at3" at3
rm "$mnt/e/moved.img" || fail rm
same "$snaps/e/moved.img/at3" at3
"$goldfs" snapshot list "$mnt/e/moved.img" | grep -q at3 || fail "list of a removed clone"
"$goldfs" clone "$snaps/e/moved.img/at3" "$mnt/e/moved.img" || fail "restore"
same "$mnt/e/moved.img" at3
snap rollback "$mnt/e/moved.img" at1 >/dev/null
cp "$mnt/golden/base.img" "$mnt/e/new" && mv "$mnt/e/new" "$mnt/e/moved.img" || fail "rename over"
same "$snaps/e/moved.img/at3" at3
! ls "$snaps/e/moved.img" | grep -q auto || fail "automatic snapshots of a replaced clone stay"
"$goldfs" rm --snapshots "$mnt/e/moved.img" || fail "rm --snapshots"
[ ! -e "$mnt/e/moved.img" ] && [ ! -e "$snaps/e" ] || fail "rm --snapshots leaves something"
note "$snaps/b.img/at1" b-at1
cp "$mnt/golden/two.img" "$mnt/x.img"; snap create "$mnt/x.img" at1; note "$mnt/x.img" x
mv "$mnt/x.img" "$b" || fail "rename over one with snapshots"
same "$snaps/b.img/at1" x
same "$snaps/b.img~1/at1" b-at1
"$goldfs" rm --snapshots "$snaps/b.img~1" || fail "rm of what is left"
[ ! -e "$snaps/b.img~1" ] || fail "it is still there"

# What is replaced has nothing but an automatic one: its folder stays for who comes.
mkdir "$mnt/m"
cp "$mnt/golden/base.img" "$mnt/m/x"; cp "$mnt/golden/two.img" "$mnt/y"; note "$mnt/y" y
snap create "$mnt/m/x" s; put "$mnt/m/x" 1; snap rollback "$mnt/m/x" s >/dev/null
snap delete "$mnt/m/x" s
snap create "$mnt/y" s; mv "$mnt/y" "$mnt/m/x" || fail "rename over one with an automatic snapshot"
same "$snaps/m/x/s" y
[ "$(ls "$snaps/m/x")" = s ] && [ ! -e "$snaps/y" ] || fail "rename over: $(ls -R "$snaps")"
"$goldfs" rm --snapshots "$mnt/m/x" && rmdir "$mnt/m" || fail "rm --snapshots"

# ---- a reader with cached pages
note "$a" now
snap create "$a" cached
put "$a" 32; note "$a" new
python3 - "$a" "$goldfs" "$work" <<-'END' || fail "a reader sees old pages"
	import hashlib, mmap, os, subprocess, sys
	path, goldfs = sys.argv[1:3]
	fd = os.open(path, os.O_RDONLY)
	size = os.fstat(fd).st_size
	def look():
	    return os.pread(fd, size, 0)
	new = look()
	m = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
	assert m[:] == new
	subprocess.run([goldfs, "snapshot", "rollback", path, "cached"], check=True, stdout=subprocess.DEVNULL)
	old = look()
	assert old != new
	assert m[:] == old
	assert open(os.path.join(os.path.dirname(path), ".snapshots/a.img/cached"), "rb").read() == old
END
same "$a" now
# What was written through a map is part of the snapshot.
python3 - "$a" "$goldfs" "$snaps/a.img/mapped" <<-'END' || fail "what was in a map is not in the snapshot"
	import mmap, os, subprocess, sys
	fd = os.open(sys.argv[1], os.O_RDWR)
	m = mmap.mmap(fd, os.fstat(fd).st_size)
	m[12345:12350] = b"hello"
	subprocess.run([sys.argv[2], "snapshot", "create", sys.argv[1], "mapped"], check=True)
	assert open(sys.argv[3], "rb").read()[12345:12350] == b"hello"
END

# ---- open for writing
exec 7<>"$a"
refused 'is open for writing' "$goldfs" snapshot rollback "$a" zero
refused 'is open for writing' "$goldfs" refresh "$a" --onto "$mnt/golden/two.img"
snap rollback --force "$a" zero >/dev/null
exec 7>&-
same "$a" golden

# ---- refresh
note "$mnt/golden/two.img" two-golden
put "$a" 3; note "$a" before
"$goldfs" refresh "$a" "$b" --onto "$mnt/golden/two.img" >told || fail refresh
for one in "$a" "$b"; do
	kept=$(sed -n "s|^what \"$one\" was is kept as \"\(.*\)\"$|\1|p" told)
	[ -n "$kept" ] && [ -e "$snaps/$(basename "$one")/$kept" ] || fail "not where it is told to be: $(cat told)"
done
same "$a" two-golden
same "$b" two-golden
auto=$("$goldfs" snapshot list -j "$a" | jq -r '[.goldfs[] | select(.automatic)] | last.name')
same "$snaps/a.img/$auto" before
snap rollback "$a" "$auto" >/dev/null
same "$a" before
"$goldfs" snapshot delete --automatic --older-than 1d "$a" || fail "delete --automatic"
[ -e "$snaps/a.img/$auto" ] || fail "too young, and deleted"
"$goldfs" snapshot delete --automatic "$a" || fail "delete --automatic"
! ls "$snaps/a.img" | grep -q '^auto-' || fail "automatic ones are left"
same "$a" before

# ---- commands around it
log=$work/hooks
snap create --freeze-command "echo freeze >>$log" --thaw-command "echo thaw >>$log" "$a" hooked
[ "$(tr '\n' ' ' <"$log")" = "freeze thaw " ] || fail "hooks: $(cat "$log")"
refused 'freeze command failed with status 3' "$goldfs" snapshot create \
	--freeze-command "exit 3" --thaw-command "echo thaw >>$log" "$a" not
[ "$(grep -c thaw "$log")" = 2 ] || fail "not thawed after a failed freeze"
refused 'already' "$goldfs" snapshot create --thaw-command "echo thaw >>$log" "$a" hooked
[ "$(grep -c thaw "$log")" = 3 ] || fail "not thawed after a failure"
refused 'the snapshot is there all the same' "$goldfs" snapshot create --thaw-command false "$a" thawless
[ -e "$snaps/a.img/thawless" ] && [ ! -e "$snaps/a.img/not" ] || fail "hooks and snapshots"

# ---- wrong input
for bad in "snapshot" "snapshot nothing" "snapshot create $a" "snapshot list" "snapshot list $a $b" \
	"snapshot rollback $a" "snapshot delete $a" "snapshot delete --older-than 7d $a x" \
	"snapshot delete --automatic --older-than 7 $a" "snapshot delete --automatic $a x" \
	"snapshot rename $a x" "rm $a" "rm --snapshots" "refresh $a" "refresh --onto $mnt/golden/two.img" \
	"snapshot list -o nothing $a" "snapshot create --nothing $a x"; do
	# shellcheck disable=SC2086
	"$goldfs" $bad >"$work/out" 2>"$work/err"
	[ $? = 2 ] && [ -s "$work/err" ] && [ ! -s "$work/out" ] || fail "\"$bad\": $(cat "$work/err")"
done
refused 'no name of a snapshot' "$goldfs" snapshot create "$a" a/b
refused 'no name of a snapshot' "$goldfs" snapshot create "$a" ..
refused 'too long' "$goldfs" snapshot create "$a" "$(printf '%0300d' 1)"
refused 'named twice' "$goldfs" snapshot create "$a" "$a" x
refused 'o such file' "$goldfs" snapshot create "$mnt/nothing" x
refused 's a directory' "$goldfs" snapshot create "$mnt/e" x
refused 'ead-only' "$goldfs" snapshot create "$mnt/golden/base.img" x
refused 'ead-only' "$goldfs" snapshot create "$snaps/a.img/zero" x
refused 'no golden image' "$goldfs" refresh "$a" --onto "$b"
refused 'named twice' "$goldfs" refresh "$a" "$a" --onto "$mnt/golden/two.img"
refused 'has no snapshot' "$goldfs" snapshot rollback "$a" "../b.img/at1"
refused 'o such file|has no snapshot' "$goldfs" snapshot rollback "$mnt/nothing" x

umount_goldfs
mount_goldfs
same "$a" before
same "$snaps/a.img/zero" golden
[ "$(field "$a" hooked automatic)" = false ] || fail "after a mount"

# ---- a worker that dies: the same request again is not done twice
: >"$work/kill"
(
	while [ -e "$work/kill" ]; do
		kill -9 "$(worker_pid)" 2>/dev/null
		# It serves before it dies, or the supervisor gives up.
		stat "$mnt" >/dev/null
		sleep 0.15
	done
) &
killer=$!
n=$(ls "$snaps/a.img" | wc -l)
for i in $(seq 12); do
	put "$a" 1 "$i"; note "$a" "k$i"
	snap create "$a" "k$i"
	put "$a" 1
	snap rollback "$a" "k$i" >/dev/null
	same "$a" "k$i"
	same "$snaps/a.img/k$i" "k$i"
done
rm "$work/kill"; wait $killer
[ "$(ls "$snaps/a.img" | wc -l)" = $((n + 24)) ] || fail "there are $(ls "$snaps/a.img")"
"$goldfs" rm --snapshots "$a" "$b" || fail "rm --snapshots"
[ -z "$(ls "$snaps")" ] || fail "something is left: $(ls -R "$snaps")"

# ---- what is deleted is free, also when somebody looked at it before ----
holds() { "$goldfs" df -j "$mnt" | jq '.store.unique_bytes'; }
"$goldfs" settle "$mnt" || fail "settle"
before=$(holds)
for how in delete automatic rm force; do
	rm -f "$a"
	"$goldfs" clone "$mnt/golden/base.img" "$a" || fail "clone"
	put "$a" 16
	snap create "$a" one
	put "$a" 16
	ls -lR "$mnt" "$snaps" >/dev/null
	case $how in
	delete) for name in $(ls "$snaps/a.img"); do snap delete "$a" "$name"; done; rm "$a" ;;
	automatic) snap rollback "$a" one >/dev/null; ls -lR "$snaps" >/dev/null
		snap delete --automatic "$a"; snap delete "$a" one; rm "$a" ;;
	rm) "$goldfs" rm --snapshots "$a" || fail "rm --snapshots" ;;
	force) snap delete "$a" one; "$goldfs" clone --force "$mnt/golden/base.img" "$a" || fail "clone --force" ;;
	esac
	"$goldfs" settle "$mnt" || fail "settle"
	[ "$(holds)" -eq "$before" ] || fail "after $how the store holds $(holds) bytes, $before before"
done
# Neither the clone that a link means nor the one whose snapshots are named.
snap create "$a" one
ln -s a.img "$mnt/link"
refused 'link" is a symbolic link' "$goldfs" rm --snapshots "$mnt/link"
refused 'a.img" is there and would be removed' "$goldfs" rm --snapshots "$snaps/a.img"
[ -e "$a" ] && [ -e "$snaps/a.img/one" ] || fail "a refused rm removes something"
rm "$a" "$mnt/link"
"$goldfs" rm --snapshots "$snaps/a.img" || fail "rm --snapshots of a removed clone"
umount_goldfs
"$goldfs" check "$store" >check.out || fail "check"
! grep -q 'removed while' check.out || fail "files were open: $(cat check.out)"

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What a successor owes to files that were open, to files of .goldfs, to requests that come again
# under the same name, and to jobs.
. "$(dirname "$0")/work_lib.sh"

golden base.img 16
mount_goldfs journal-size=16M
cp "$mnt/golden/base.img" "$mnt/kept.img"
cp "$mnt/golden/base.img" "$mnt/gone.img"

# kill_and_wait: the next worker serves when it returns.
kill_and_wait()
{
	kill_worker
	stat "$mnt" >/dev/null || fail "the mount is gone"
}

# Removed while open: readable and writable over two restarts, gone after the last close, although
# nobody knows any more how often the kernel had looked it up.
exec {open}<>"$mnt/gone.img"
printf 'before' >&$open
rm "$mnt/gone.img"
kill_and_wait
printf 'after' >&$open || fail "a removed file cannot be written"
kill_and_wait
[ "$(dd bs=1 count=11 status=none <"/proc/$$/fd/$open")" = beforeafter ] ||
	fail "a removed file does not show what was written"
"$goldfs" settle "$mnt" || fail settle
[ "$("$goldfs" df -n -o CLONES "$mnt" | tr -d ' ')" = 2 ] || fail "a file that is open was given up"
exec {open}>&-
# The kernel says so in its own time.
for _ in $(seq 100); do
	"$goldfs" settle "$mnt" || fail settle
	[ "$("$goldfs" df -n -o CLONES "$mnt" | tr -d ' ')" = 2 ] || break
done
[ "$("$goldfs" df -n -o CLONES "$mnt" | tr -d ' ')" = 1 ] || fail "a file that was closed is kept"
cmp -s "$mnt/kept.img" "$images/base.img" || fail "the other clone has changed"

# A descriptor of .goldfs is stale, a new one works.
exec {stats}<"$mnt/.goldfs/stats.json" {control}<>"$mnt/.goldfs/control"
kill_and_wait
cat <&$stats >/dev/null 2>stale.txt && fail "an old picture is still shown"
grep -q 'Stale file handle' stale.txt || fail "an old descriptor does not say that it is stale"
echo '{"verb":"df"}' >&$control 2>/dev/null && fail "an old control descriptor takes a request"
exec {stats}<&- {control}<&-

# The same request under the same name is done once, whoever serves it; under another name it meets
# what is there.
ask()
{
	python3 - "$mnt/.goldfs/control" "$1" <<-'END'
		import os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		os.write(fd, sys.argv[2].encode())
		print(os.read(fd, 65536).decode())
	END
}
clone()
{
	ask '{"verb":"clone","source":"kept.img","targets":["copy.img"],"client":"'"$1"'"}'
}
clone one | grep -q '"status":0' || fail "clone"
clone one | grep -q '"status":0' || fail "a request that was done is not done"
kill_and_wait
clone one | grep -q '"status":0' || fail "a request that was done is not done after a restart"
clone two | grep -q EEXIST || fail "another request does not meet what is there"
"$goldfs" settle "$mnt" || fail settle
kill_and_wait
clone one | grep -q '"status":0' || fail "a request that was done is not done after a checkpoint"
[ "$(ls "$mnt" | tr '\n' ' ')" = "copy.img golden kept.img " ] || fail "other files than there should be"

# A job of a dead worker says so, and its number is not given out again.
job=$("$goldfs" settle --background "$mnt") || fail "settle --background"
kill_and_wait
"$goldfs" job wait "$job" "$mnt" 2>err.txt && fail "a job of a dead worker is done"
grep -q "job $job was interrupted by a restart of the daemon, run it again" err.txt ||
	fail "what is said of a job of a dead worker: $(cat err.txt)"
next=$("$goldfs" settle --background "$mnt") || fail "settle --background"
[ "$next" -gt "$job" ] || fail "job $next after job $job"
umount_goldfs
exit 0

#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 60 s
#
# Where restarting ends: crash loops, stores that no worker can open any more, a supervisor that was
# killed, a kernel that cannot send requests again. Clients get errors soon and never hang, the log
# says why, and the next mount finds everything.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"
export ASAN_OPTIONS="${ASAN_OPTIONS-}:handle_segv=0:handle_abort=0"
export TSAN_OPTIONS="${TSAN_OPTIONS-}:handle_segv=0:handle_abort=0"
ulimit -c 0
make_image base.img 4194304

# foreground [OPTION]: mounts in the foreground, as $daemon.
foreground()
{
	: >"$work/log"
	"$goldfs" mount -f -o "store=$store,log=$work/log" "$images" "$mnt" 2>"$work/err" &
	daemon=$!
	until grep -q 'is mounted on' "$work/log"; do
		kill -0 $daemon 2>/dev/null || fail "cannot mount: $(cat "$work/err" "$work/log")"
		sleep 0.05
	done
}

# A client that reads and writes until it gets an error, and notes it.
client()
{
	rm -f seen started
	python3 - "$mnt/vm.img" "$work/seen" "$work/started" <<-'END' &
		import errno, os, sys, time
		fd = os.open(sys.argv[1], os.O_RDWR)
		data = os.urandom(4096)
		try:
		    while True:
		        os.pwrite(fd, data, 8192)
		        os.fsync(fd)
		        open(sys.argv[3], "w").close()
		        time.sleep(0.001)
		except OSError as e:
		    open(sys.argv[2], "w").write(errno.errorcode[e.errno])
	END
	client=$!
	until [ -e started ]; do
		kill -0 $client 2>/dev/null || fail "the client cannot write"
		sleep 0.02
	done
}

# ended STATUS TEXT: the daemon has given up, with an error for the client and TEXT in the log.
ended()
{
	local status=0
	timeout 10 tail --pid=$client -f /dev/null || fail "$2: the client hangs"
	grep -qE 'ENOTCONN|ECONNABORTED|EIO|ENODEV' seen || fail "$2: the client saw $(cat seen)"
	wait $daemon || status=$?
	[ $status = "$1" ] || fail "$2: the daemon's status is $status"
	grep -q "$2" log || fail "the log does not say \"$2\": $(cat log)"
	flock -n "$store/lock" true || fail "$2: the lock is held"
	timeout 5 stat "$mnt/vm.img" 2>err && fail "$2: still served"
	grep -q 'not connected' err || fail "$2: stat says $(cat err)"
}

# A worker that dies again and again.
foreground
cp "$mnt/golden/base.img" "$mnt/vm.img"
echo kept >"$mnt/file"
client
timeout 30 python3 - "$mnt/.goldfs/stats.json" <<-'END'
	import errno, json, os, signal, sys
	while True:
	    try:
	        with open(sys.argv[1]) as f:
	            os.kill(json.load(f)["daemon"]["worker_pid"], signal.SIGSEGV)
	    except ProcessLookupError:
	        pass # was killed already
	    except OSError as e:
	        if e.errno != errno.ESTALE: # the next worker does not know that picture
	            break
END
ended 1 'workers die again and again: giving up'
grep -q 'its last worker was killed by signal 11 (SEGV)' log || fail "the last signal is not told"
[ "$(grep -c "another one takes over" log)" -ge 24 ] || fail "not 24 restarts: $(cat log)"

# Workers that cannot serve any more: the store is not to be read.
foreground
[ "$(cat "$mnt/file")" = kept ] || fail "lost a file"
client
mv "$store/superblock" saved
kill_worker
ended 1 'in a row did not come to serve: giving up'
grep -q 'its last worker ended with status 1' log || fail "the last status is not told"
mv saved "$store/superblock"

# A supervisor that is killed leaves a mount that works, once.
foreground
client
kill -9 $daemon
wait $daemon 2>/dev/null
worker=$(jq .daemon.worker_pid "$mnt/.goldfs/stats.json") || fail "not served without supervisor"
[ "$(cat "$mnt/file")" = kept ] || fail "not served without supervisor"
[ "$(daemon_figure supervisor_pid)" = 0 ] || fail "a supervisor is shown that is dead"
[ "$(grep -c 'supervisor.*is gone' log)" = 1 ] || fail "the log does not tell of it once: $(cat log)"
"$goldfs" upgrade "$mnt" 2>err && fail "upgrade without supervisor"
grep -q 'no supervisor any more' err || fail "upgrade without supervisor says $(cat err)"
"$goldfs" -o "store=$store" "$images" "$mnt" 2>err && fail "mounted twice"
kill -9 "$worker"
timeout 10 tail --pid=$client -f /dev/null || fail "without supervisor: the client hangs"
timeout 5 stat "$mnt/file" 2>err && fail "served by nobody"

# The same, unmounted: umount returns after the worker has closed the store.
foreground
echo more >>"$mnt/file"
kill -9 $daemon
wait $daemon 2>/dev/null
timeout 20 "$goldfs" umount "$mnt" || fail "umount without supervisor"
flock -n "$store/lock" true || fail "umount without supervisor returned too early"

# Unmounted just when there is no worker: one more closes the store.
foreground
echo again >>"$mnt/file"
worker=$(worker_pid)
kill -STOP $daemon
kill -9 "$worker"
await_end "$worker"
python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).umount2(sys.argv[1].encode(), 2))' "$mnt" ||
	fail "umount2"
kill -CONT $daemon
wait $daemon || fail "status $? after an unmount without a worker: $(cat log)"
grep -q 'another one closes the store' log || fail "nobody closed the store: $(cat log)"

# A kernel that cannot do it, as this one pretends: said once, and errors at once.
GOLDFS_TEST_NO_RESEND=1 "$goldfs" mount -o "store=$store,log=$work/log" "$images" "$mnt" 2>err ||
	fail "cannot mount: $(cat err)"
[ "$(grep -c '^goldfs: warning: this kernel cannot' err)" = 1 ] || fail "no warning: $(cat err)"
[ "$(wc -l <err)" = 1 ] || fail "more than a warning: $(cat err)"
supervisor=$(daemon_pid)
client
kill_worker
timeout 5 tail --pid=$client -f /dev/null || fail "no resend: the client hangs"
timeout 5 flock "$store/lock" true || fail "no resend: the supervisor lives"
[ ! -e "/proc/$supervisor" ] || await_end "$supervisor"
grep -q 'cannot send requests again.*giving up' log || fail "no resend: the log does not say so"
unset GOLDFS_TEST_NO_RESEND

# A worker that is killed while the mount is made: it failed, and says so on one line.
(
	for ((n = 0; n < 200; n++)); do
		pid=$(pgrep -f -- "mount-worker .*$mnt\$") && kill -9 $pid && break
	done
) &
if "$goldfs" mount -o "store=$store,log=$work/log" "$images" "$mnt" 2>err; then
	echo "not tried: the worker was too fast to be killed at its start"
else
	grep -q '^goldfs: the worker was killed by signal 9 (KILL) before it served' err ||
		fail "a killed start says: $(cat err)"
	mountpoint -q "$mnt" && fail "mounted although it failed"
fi
wait

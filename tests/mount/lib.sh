# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# For mounted tests, which are bash scripts called as `tests/mount/NAME.sh BUILD/goldfs`:
#
#	. "$(dirname "$0")/lib.sh"
#	setup "$1"
#	mount_goldfs
#	… || fail "what is wrong"
#
# setup makes a folder of the test's own with $images, $store and $mnt in it and changes to it;
# $here is where the test stands. The test leaves nothing mounted and nothing behind, however it
# ends. Nothing here asserts on time.

set -u

here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
goldfs=
work=
images=
store=
mnt=
extra_mounts=()

fail()
{
	echo "FAILED: $*" >&2
	exit 1
}

# What a skipped test lacks is its last line of output.
skip()
{
	echo "skipped: $*"
	exit 77
}

setup()
{
	[ -x "$1" ] || fail "no program \"$1\"; usage: $0 BUILD/goldfs"
	goldfs=$(realpath "$1")
	[ "$(id -u)" = 0 ] || skip "needs root"
	[ -c /dev/fuse ] || skip "needs /dev/fuse"
	work=$(mktemp -d) || fail "no folder"
	trap cleanup EXIT
	trap 'exit 1' INT TERM HUP
	chmod 755 "$work"
	images=$work/images store=$work/store mnt=$work/mnt
	mkdir "$images" "$store" "$mnt"
	cd "$work" || fail "no folder"
}

cleanup()
{
	local status=$? point
	cd /
	[ -z "$(jobs -p)" ] || kill $(jobs -p) 2>/dev/null
	for point in "${extra_mounts[@]}" "$mnt"; do
		if mountpoint -q "$point" || ! stat "$point" >/dev/null 2>&1; then
			"$goldfs" umount "$point" 2>/dev/null || umount "$point" 2>/dev/null ||
				umount -l "$point" 2>/dev/null
		fi
	done
	if [ $status -ne 0 ] && [ $status -ne 77 ] && [ -s "$store/log" ]; then
		echo "--- the daemon's log:" >&2
		tail -n 50 "$store/log" >&2
	fi
	rm -rf --one-file-system "$work"
	exit $status
}

# make_image NAME SIZE [EXTENTS]: random data at EXTENTS places spread over a sparse file; without
# EXTENTS all of it is data.
make_image()
{
	local file=$images/$1 size=$2 extents=${3:-}
	if [ -z "$extents" ]; then
		head -c "$size" /dev/urandom >"$file" || fail "cannot make $file"
		return
	fi
	truncate -s "$size" "$file" || skip "no sparse file of $size bytes here"
	python3 - "$file" "$size" "$extents" <<-'END' || fail "cannot make $file"
		import os, sys
		name, size, extents = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
		fd = os.open(name, os.O_WRONLY)
		step = size // extents // 4096 * 4096
		for i in range(extents):
		    os.pwrite(fd, os.urandom(4096), i * step)
	END
}

# mount_goldfs [OPTION,…]: $images on $mnt, the log to $store/log.
mount_goldfs()
{
	"$goldfs" mount -o "store=$store,log=$store/log${1:+,$1}" "$images" "$mnt" ||
		fail "cannot mount"
}

umount_goldfs()
{
	"$goldfs" umount "$mnt" || fail "cannot unmount"
}

# The process that holds the store's lock: the supervisor.
daemon_pid()
{
	local pid
	read -r pid _ <"$store/lock" || fail "no pid in the lock"
	echo "$pid"
}

# The process that serves, a child of the supervisor; empty: there is none just now.
worker_pid()
{
	local pid
	for pid in $(ps -o pid= --ppid "$(daemon_pid)"); do
		if tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qx mount-worker; then
			echo "$pid"
			return
		fi
	done
}

# await_end PID: until the process is gone, or a zombie that waits for nothing but its parent. While
# other threads of it still end, which a long fsync makes last, it holds what it had open.
await_end()
{
	while [ -e "/proc/$1" ] && ! { grep -q '^State:.*Z' "/proc/$1/status" &&
		[ "$(ls "/proc/$1/task" | wc -l)" -le 1 ]; } 2>/dev/null; do
		sleep 0.01
	done
}

# kill_daemon: all processes of the mount, as by power loss to them; the mount stays, dead.
kill_daemon()
{
	local pid worker
	pid=$(daemon_pid)
	worker=$(worker_pid)
	kill -9 "$pid" || fail "no daemon"
	[ -z "$worker" ] || kill -9 "$worker" || fail "no worker"
	await_end "$pid"
	[ -z "$worker" ] || await_end "$worker"
}

# kill_worker [SIGNAL]: the process that serves; the next one takes over. Between two of them it waits
# for the one that comes, so that each call is a death.
kill_worker()
{
	local worker end=$((SECONDS + 30))
	until worker=$(worker_pid) && [ -n "$worker" ]; do
		[ $SECONDS -lt $end ] || fail "no worker comes: $(tail -n 3 "$store/log")"
		sleep 0.01
	done
	kill "-${1:-9}" "$worker" || fail "the worker ended by itself"
	await_end "$worker"
}

# daemon_figure KEY: of the daemon's part of stats.json.
daemon_figure()
{
	jq -e ".daemon.$1" "$mnt/.goldfs/stats.json"
}

# requests NAME: how many of that kind the kernel has sent, see user.goldfs.requests.
requests()
{
	getfattr --absolute-names --only-values -n user.goldfs.requests "$mnt" |
		awk -v name="$1" '$1 == name { print $2 }'
}

# errno_of NAME COMMAND…: the command fails and says the text of errno NAME.
errno_of()
{
	local text err
	case $1 in
	EPERM) text='Operation not permitted' ;;
	EROFS) text='Read-only file system' ;;
	EOPNOTSUPP) text='Operation not supported' ;;
	ENAMETOOLONG) text='File name too long' ;;
	ENOTEMPTY) text='Directory not empty' ;;
	EEXIST) text='File exists' ;;
	ESTALE) text='Stale file handle' ;;
	*) fail "errno_of does not know $1" ;;
	esac
	shift
	if err=$("$@" 2>&1 >/dev/null); then
		fail "$* should have failed"
	fi
	[[ $err == *"$text"* ]] || fail "$* said \"$err\", not \"$text\""
}

# as_nobody COMMAND…: as an ordinary user.
as_nobody()
{
	setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

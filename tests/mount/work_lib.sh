# SPDX-License-Identifier: MIT
#
# What the workloads (work_*.sh) share: a store and a mount in a folder of their own, the daemon's
# death by kill -9, figures as numbers. Sourced by bash with $1 = the goldfs binary.
# shellcheck shell=bash
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

goldfs=$(realpath "$1")
tools=$(dirname "$goldfs")/tests/mount

skip()
{
	echo "$*"
	exit 77
}

fail()
{
	echo "FAILED: $*"
	exit 1
}

need()
{
	local tool
	for tool in "$@"; do
		command -v "$tool" >/dev/null || skip "needs $tool"
	done
}

[ -c /dev/fuse ] || skip 'needs /dev/fuse'
need jq

loops=()
pids=()
dir=$(mktemp -d)
images=$dir/images
store=$dir/store
mnt=$dir/mnt
log=$dir/daemon.log
mkdir "$images" "$mnt" "$store"

clean_up()
{
	local status=$? point loop pid
	set +e
	for pid in ${pids[@]+"${pids[@]}"}; do
		kill "$pid" 2>/dev/null
	done
	wait
	while read -r point; do
		[ "$point" = "$mnt" ] || umount "$point" || umount -l "$point"
	done < <(awk -v below="$dir/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
	for loop in ${loops[@]+"${loops[@]}"}; do
		losetup -d "$loop"
	done
	if mountpoint -q "$mnt" || grep -q " $mnt " /proc/self/mountinfo; then
		"$goldfs" umount "$mnt" || umount -l "$mnt"
	fi
	if [ $status -ne 0 ] && [ $status -ne 77 ] && [ -s "$log" ]; then
		echo '--- log of the daemon:'
		tail -n 30 "$log"
	fi
	rm -rf --one-file-system "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# start [IMAGES [OPTIONS]]: mounts, and remembers whom to kill.
start()
{
	"$goldfs" -o "store=$store,log=$log${2:+,$2}" "${1:-$images}" "$mnt" || fail "mount (status $?)"
	mountpoint -q "$mnt" || fail "'$mnt' is not a mount point"
	find_daemon
}

find_daemon()
{
	worker=$(jq '.daemon.worker_pid' "$mnt/.goldfs/stats.json")
	supervisor=$(jq '.daemon.supervisor_pid // 0' "$mnt/.goldfs/stats.json")
	[ "$worker" -gt 1 ] || fail "stats.json names no worker: '$worker'"
}

stop()
{
	"$goldfs" umount "$mnt" || fail "umount (status $?)"
}

# The whole daemon dies at once, as in a crash: nothing of it gets to finish.
kill_daemon()
{
	local pid tries=0
	# The supervisor first, else it would start another worker.
	for pid in $supervisor $worker; do
		[ "$pid" -le 1 ] || kill -9 "$pid" 2>/dev/null || true
	done
	for pid in $supervisor $worker; do
		while [ "$pid" -gt 1 ] && kill -0 "$pid" 2>/dev/null; do
			tries=$((tries + 1))
			[ $tries -lt 500 ] || fail "process $pid does not die"
			sleep 0.02
		done
	done
}

# figure PATH KEY: one number of `goldfs stat`.
figure()
{
	"$goldfs" stat -j "$1" | jq -e ".goldfs[0].$2"
}

store_figure()
{
	"$goldfs" df -j "$mnt" | jq -e ".store.$1"
}

# golden NAME MEBIBYTES: half data that does not compress, half holes.
golden()
{
	local n
	truncate -s "${2}M" "$images/.$1"
	for ((n = 0; n < $2; n += 8)); do
		dd if=/dev/urandom "of=$images/.$1" bs=1M count=4 seek="$n" conv=notrunc status=none
	done
	truncate -s "${2}M" "$images/.$1"
	mv "$images/.$1" "$images/$1"
}

# loop FILE [OPTIONS]: sets $loop_device, which is detached at the end.
attach()
{
	local file=$1
	shift
	loop_device=$(losetup --find --show "$@" "$file") || skip 'needs loop devices'
	loops+=("$loop_device")
}

detach()
{
	local n
	losetup -d "$1"
	for n in "${!loops[@]}"; do
		[ "${loops[n]}" != "$1" ] || unset "loops[n]"
	done
}

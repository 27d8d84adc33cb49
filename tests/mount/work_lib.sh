# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the workloads (work_*.sh) have in common, on top of lib.sh: golden images with holes, figures
# as numbers, loop devices and processes that end with the test. An error that is not looked at
# ends the test.
. "$(dirname "$0")/lib.sh"
set -eo pipefail
PATH=$PATH:/usr/sbin:/sbin
setup "$1"

tools=$(dirname "$goldfs")/tests/mount
loops=()
pids=()

need()
{
	local tool
	for tool in "$@"; do
		command -v "$tool" >/dev/null || skip "needs $tool"
	done
}
need jq

end_workload()
{
	local status=$? point one
	set +e
	trap - EXIT
	for one in "${pids[@]}"; do
		kill "$one" 2>/dev/null
	done
	wait
	while read -r point; do
		[ "$point" = "$mnt" ] || umount "$point" || umount -l "$point"
	done < <(awk -v below="$work/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo |
		sort -r)
	for one in "${loops[@]}"; do
		losetup -d "$one"
	done
	(exit $status)
	cleanup
}
trap end_workload EXIT
trap 'exit 130' INT TERM HUP

# figure PATH KEY: one number of `goldfs stat`.
figure()
{
	"$goldfs" stat -j "$1" | jq -e ".goldfs[0].$2"
}

# golden NAME MEBIBYTES: 4 MiB of data, 4 MiB of hole, and so on.
golden()
{
	local n
	for ((n = 0; n < $2; n += 8)); do
		dd if=/dev/urandom "of=$images/.$1" bs=1M count=4 seek="$n" conv=notrunc status=none
	done
	truncate -s "${2}M" "$images/.$1"
	mv "$images/.$1" "$images/$1"
}

# attach FILE [OPTION...]: a loop device for it, in $loop_device.
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

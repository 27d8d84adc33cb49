#!/bin/bash
# SPDX-License-Identifier: MIT
#
# usage: tests/mount/figures.sh BUILD/goldfs
#
# st_blocks of files whose figures take long to count: 8,192 regions. Who only looks gets what was
# counted before, and within a few seconds what is.
#
# Time limit: 400 s
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v python3 >/dev/null || skip "needs python3"

regions=4096

# write_blocks FILE OFFSET: one block in each region.
write_blocks()
{
	python3 - "$1" "$2" "$regions" <<-'END'
		import os, sys
		fd = os.open(sys.argv[1], os.O_WRONLY)
		for i in range(int(sys.argv[3])):
		    os.pwrite(fd, os.urandom(4096), (i << 25) + int(sys.argv[2]))
	END
}

# blocks_become FILE COUNT: st_blocks, in blocks of 4 KiB.
blocks_become()
{
	local i blocks
	for ((i = 0; i < 1000; i++)); do
		blocks=$(($(stat -c %b "$1") / 8))
		[ "$blocks" = "$2" ] && return
		sleep 0.1
	done
	fail "$1 has $blocks blocks instead of $2"
}

truncate -s 128G "$images/base.img" || skip "needs files of 128 GiB"
mount_goldfs dedup=off
set -e
"$goldfs" clone "$mnt/golden/base.img" "$mnt/a"
write_blocks "$mnt/a" 0
"$goldfs" clone "$mnt/a" "$mnt/b"
write_blocks "$mnt/a" 4096
"$goldfs" clone "$mnt/a" "$mnt/c"
"$goldfs" list "$mnt" >/dev/null
# What a and c have in common, and b has not, is a's alone after this; what a and b have, is not.
rm "$mnt/c"
blocks_become "$mnt/a" $regions
rm "$mnt/b"
blocks_become "$mnt/a" $((2 * regions))
# What stands below may be guessed with what hides it at first.
write_blocks "$mnt/a" 0
umount_goldfs
mount_goldfs
blocks_become "$mnt/a" $((2 * regions))
umount_goldfs

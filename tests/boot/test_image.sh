#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 420 s
#
# The Debian image that the guests run from can be made, and is clean. Making it is mostly waiting
# for one unpacked package after the other, so this runs beside other tests, before the guests.
. "$(dirname "$0")/lib.sh"

e2fsck -fn "$dir/images/debian.img" || fail "e2fsck of '$dir/images/debian.img'"
debugfs -R 'stat /sbin/goldfs-guest-init' "$dir/images/debian.img" 2>&1 | grep -q 'Type: regular' ||
	fail 'no program to start the guest with'
for file in vmlinuz initrd; do
	[ -s "$dir/$file" ] || fail "no $file"
done

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Hot paths ask for nothing but data: 4 KiB random writes at depth 16 send no GETXATTR, cached
# 4 KiB reads send no GETATTR, signals to a client no INTERRUPT. A few come with opening the file; they must
# not grow with the I/O.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v fio >/dev/null || skip "needs fio"
make_image base.img $((64 << 20))
mount_goldfs
cp "$mnt/golden/base.img" "$mnt/vm.img" || fail "cp"
chmod 666 "$mnt/vm.img"

# few NAME BEFORE OPERATIONS: at most a handful of requests came for many operations.
few()
{
	local got=$(($(requests "$1") - $2))
	echo "$got $1 requests for $3 operations"
	[ $got -le 16 ] || fail "$got $1 requests for $3 operations"
}

for user in root nobody; do
	run=()
	[ $user = root ] || run=(as_nobody)
	for direct in 1 0; do
		before=$(requests getxattr)
		"${run[@]}" fio --name=w --filename="$mnt/vm.img" --rw=randwrite --bs=4k --iodepth=16 \
			--ioengine=libaio --direct=$direct --size=64M --number_ios=5000 \
			--output=/dev/null || fail "fio"
		few getxattr "$before" 5000
	done
done

cat "$mnt/vm.img" >/dev/null
before=$(requests getattr)
fio --name=r --filename="$mnt/vm.img" --rw=randread --bs=4k --ioengine=psync --invalidate=0 \
	--size=64M --number_ios=20000 --output=/dev/null || fail "fio"
few getattr "$before" 20000

# A client that gets signals all the time.
before=$(requests interrupt)
timeout 60 python3 - "$mnt/vm.img" <<'EOF' || fail "writes beside signals"
import os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for i in range(10000):
    os.pwrite(file, b"x", i * 4096)
    os.stat(file)
signal.setitimer(signal.ITIMER_REAL, 0)
EOF
few interrupt "$before" 20000

before=$(requests flush)
for i in 1 2 3 4 5 6 7 8 9; do head -c 1 "$mnt/vm.img" >/dev/null; done
[ "$(requests flush)" = "$before" ] || fail "FLUSH on close"
umount_goldfs

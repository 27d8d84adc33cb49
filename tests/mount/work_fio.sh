#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 300 s
#
# fio writes and verifies, four files at once in each run: block sizes from 512 bytes to 1 MiB,
# random and sequential, direct and buffered, with fsync between. Everything is verified again
# after an unmount, by new processes.
. "$(dirname "$0")/work_lib.sh"
need fio
cd "$work" || exit 1

golden base.img 48
mount_goldfs
for n in 1 2 3 4; do
	cp "$mnt/golden/base.img" "$mnt/f$n.img"
done

make_jobs()
{
	cat >jobs <<END
[global]
directory=$mnt
randseed=$seed
verify=crc32c
verify_fatal=1
exitall_on_error=1
fallocate=none
[small]
filename=f1.img
rw=randwrite
bs=4k
direct=1
ioengine=libaio
iodepth=16
fsync=64
size=24m
[stream]
filename=f1.img
offset=24m
rw=write
bs=64k
size=24m
[tiny]
filename=f2.img
rw=randwrite
bs=512
direct=1
ioengine=libaio
iodepth=4
size=2m
[big]
filename=f2.img
offset=2m
rw=randwrite
bs=256k
fsync=16
size=40m
[odd]
filename=f3.img
rw=randwrite
bs=1536
fsync=128
size=8m
[mixed]
filename=f3.img
offset=8m
rw=randwrite
bsrange=4k-128k
blockalign=512
direct=1
ioengine=libaio
iodepth=8
size=32m
[large]
filename=f4.img
rw=write
bs=1m
direct=1
ioengine=libaio
iodepth=4
size=32m
[tail]
filename=f4.img
offset=32m
rw=randwrite
bs=4k
size=16m
END
}

# All jobs at once; none of them touches what another one writes.
run_fio()
{
	make_jobs
	fio "$@" jobs >fio.log 2>&1 || { cat fio.log; fail "fio $*, seed $seed"; }
}

seed=${GOLDFS_SEED:-$RANDOM}
echo "seed $seed"
run_fio --do_verify=1
"$goldfs" settle "$mnt"
run_fio --verify_only
umount_goldfs
mount_goldfs
run_fio --verify_only

# Small and large writes over the same ranges, old and new mixed: the last one counts.
seed=$((seed + 1))
run_fio --do_verify=1
umount_goldfs
mount_goldfs
run_fio --verify_only
# What nobody wrote is what the image had.
cmp -i $((42 * 1048576)) "$mnt/f2.img" "$images/base.img" || fail 'the untouched end of f2.img'
umount_goldfs

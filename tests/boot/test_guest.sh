#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 420 s
#
# One Debian guest on a clone made by cp: it writes, syncs and powers off. The clone's file system
# is clean, and after unmount and mount it holds what the guest wrote; the golden image is what it
# was, and so is a clone that nobody touched.
. "$(dirname "$0")/lib.sh"

mount_goldfs
cp "$mnt/golden/debian.img" "$mnt/vm.img"
cp "$mnt/golden/debian.img" "$mnt/idle.img"
chown $guest_id:$guest_id "$mnt/vm.img"

token=one-$RANDOM$RANDOM
guest one "$mnt/vm.img" $token cache=none,aio=native,discard=unmap || fail 'the guest'
check_disk "$mnt/vm.img" $token
sum=$(sha256sum <"$mnt/vm.img")

umount_goldfs
mount_goldfs
check_disk "$mnt/vm.img" $token
[ "$(sha256sum <"$mnt/vm.img")" = "$sum" ] || fail 'the clone reads differently after a remount'
cmp "$mnt/idle.img" "$dir/images/debian.img" || fail 'a clone that was not touched changed'
check_golden
"$goldfs" list "$mnt"
umount_goldfs

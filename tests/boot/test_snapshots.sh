#!/bin/bash
# SPDX-License-Identifier: MIT
# Time limit: 540 s
#
# A guest's disk goes back and forth: a package is installed, a snapshot is taken while the guest
# writes, then the guest breaks its disk. Rolled back it boots again and has the package; rolled
# forward it is as broken as it was.
. "$(dirname "$0")/lib.sh"

disk=$dir/mnt/vm.img
word=proof-$RANDOM$RANDOM

# start_guest NAME: a guest with a root shell, of which it takes what is written to descriptor 7.
start_guest()
{
	log=$logs/boot-console-$1.log
	rm -f "$dir/keys" && mkfifo "$dir/keys"
	exec 7<>"$dir/keys"
	set -m
	as_guest timeout --foreground 240 qemu-system-x86_64 -accel tcg -m 256 -display none -no-reboot \
		-nodefaults -serial stdio -kernel "$dir/vmlinuz" -initrd "$dir/initrd" \
		-append "console=ttyS0 quiet panic=-1 no_timer_check" \
		-drive "file=$disk,format=raw,if=virtio,cache=none,aio=native,discard=unmap" \
		<&7 >"$log" 2>&1 7<&- &
	pids=($!)
	set +m
}

# said TEXT: waits until the guest says so.
said()
{
	until grep -q "$1" "$log"; do
		kill -0 "${pids[0]}" 2>/dev/null || { grep -q "$1" "$log" && return; tail -n 20 "$log"
			fail "the guest ended before it said '$1'"; }
		sleep 0.2
	done
}

wait_for_guest()
{
	wait "${pids[0]}" || fail "QEMU ended with status $?"
	pids=()
	exec 7>&-
}

# The console shows what is typed, too: the words to wait for are not typed as they are said.
tell()
{
	printf '%s\n' "$@" >&7
}

mount_goldfs
cp "$mnt/golden/debian.img" "$disk"
chown $guest_id:$guest_id "$disk"

start_guest install
said 'switches it off'
tell 'mkdir -p /root/p/DEBIAN /root/p/usr/bin' \
	"printf 'Package: goldfs-proof\nVersion: 1\nArchitecture: all\n' >/root/p/DEBIAN/control" \
	"printf 'Maintainer: Nobody <nobody@example.org>\nDescription: a proof\n' >>/root/p/DEBIAN/control" \
	"printf '#!/bin/sh\necho $word-\$1\n' >/root/p/usr/bin/goldfs-proof" \
	'chmod 755 /root/p/usr/bin/goldfs-proof' \
	'dpkg-deb --build /root/p /root/p.deb && dpkg --install /root/p.deb && sync && goldfs-proof "in"stalled'
said "$word-installed"
# It goes on writing while the snapshot is taken.
tell 'while :; do echo more; done >/srv/log & sleep 1; echo wri""ting'
said 'writing'
"$goldfs" snapshot create "$disk" installed || fail 'snapshot create'
tell 'dd if=/dev/zero of=/dev/vda bs=1M count=48 oflag=direct; echo br""oken; sleep 1; echo o >/proc/sysrq-trigger'
said 'broken'
wait_for_guest
! e2fsck -fn "$disk" >"$dir/fsck" 2>&1 || fail 'the disk is not broken'
broken=$(sha256sum <"$disk")

"$goldfs" snapshot rollback "$disk" installed || fail 'rollback'
"$goldfs" snapshot list "$disk"
left=$("$goldfs" snapshot list --json "$disk" |
	python3 -c 'import json, sys; print([s["name"] for s in json.load(sys.stdin)["goldfs"]
		if s["name"] != "installed" and not s.get("current")][0])') ||
	fail 'the state that was left is not kept'

start_guest back
said 'switches it off'
tell 'dpkg --status goldfs-proof | grep ^Status; goldfs-proof "ba"ck'
said 'Status: install ok installed'
said "$word-back"
tell exit
wait_for_guest
! grep -qE 'I/O error|EXT4-fs error|Buffer I/O' "$log" || fail 'the guest saw an error of its disk'
e2fsck -fn "$disk" >"$dir/fsck" 2>&1 || { cat "$dir/fsck"; fail 'e2fsck after rolling back'; }

# Forward: as broken as it was, and it does not boot.
"$goldfs" snapshot rollback "$disk" "$left" || fail "roll forward to '$left'"
[ "$(sha256sum <"$disk")" = "$broken" ] || fail 'rolled forward, the disk is not what it was'
start_guest forward
said 'no root file system'
wait_for_guest

# And back once more, over a mount.
"$goldfs" snapshot rollback "$disk" installed || fail 'the second rollback'
umount_goldfs
"$goldfs" check "$dir/store" || fail check
mount_goldfs
debugfs -R 'cat /usr/bin/goldfs-proof' "$disk" 2>/dev/null | grep -q "$word" ||
	fail 'rolled back again, the package is not there'
check_golden
umount_goldfs

#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The notify protocol of systemd, spoken over a socket that the test listens on: by path and by an
# abstract name. And the unit that relies on it, as far as systemd-analyze can tell.
. "$(dirname "$0")/lib.sh"
setup "$1"
make_image base.img 1048576

cat >listen.py <<'END'
import os, signal, socket, subprocess, sys
goldfs, address, store, images, mnt = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("\0" + address[1:] if address[0] == "@" else address)
listener.settimeout(20)

def await_message(what, *wanted):
    """The next message that has all of these lines; others are skipped. NAME= alone: any value."""
    seen = []
    while True:
        try:
            text = listener.recv(4096).decode()
        except TimeoutError:
            sys.exit(f"{what}: no message with {wanted} came, but {seen}")
        lines = text.splitlines()
        seen.append(text)
        if all(any(l == w or (w[-1] == "=" and l.startswith(w)) for l in lines) for w in wanted):
            return dict(l.split("=", 1) for l in lines)

daemon = subprocess.Popen([goldfs, "mount", "-f", "-o", f"store={store}", images, mnt],
    env=dict(os.environ, NOTIFY_SOCKET=address), stderr=subprocess.DEVNULL)
await_message("start", "EXTEND_TIMEOUT_USEC=")
ready = await_message("start", "READY=1", f"MAINPID={daemon.pid}", "STATUS=")
assert os.path.ismount(mnt), "ready before it is mounted"
assert "0 restarts" in ready["STATUS"], ready
worker = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(daemon.pid)]))
environment = open(f"/proc/{worker}/environ").read()
assert "NOTIFY_SOCKET" not in environment, "the worker could speak for the supervisor"
os.kill(worker, signal.SIGKILL)
await_message("restart", "EXTEND_TIMEOUT_USEC=")
ready = await_message("restart", "READY=1", f"MAINPID={daemon.pid}", "STATUS=")
assert "1 restarts" in ready["STATUS"], ready
daemon.send_signal(signal.SIGTERM)
await_message("stop", "STOPPING=1", "STATUS=")
assert daemon.wait(20) == 0, "status of the end"
END
for address in "$work/socket" "@goldfs-test-$$"; do
	timeout 90 python3 listen.py "$goldfs" "$address" "$store" "$images" "$mnt" ||
		fail "notify by $address"
done
# Nobody listens: no reason to fail.
NOTIFY_SOCKET=$work/nobody "$goldfs" -o "store=$store" "$images" "$mnt" || fail "without a listener"
umount_goldfs

unit=$here/../../mount-helpers/goldfs@.service
if command -v systemd-analyze >/dev/null; then
	mkdir units
	sed "s|/usr/local/bin/goldfs|$goldfs|" "$unit" >units/goldfs@.service
	systemd-analyze verify --man=no "$work/units/goldfs@test.service" >verify 2>&1
	grep -v 'MemoryHigh\|Unit .* not found' verify | grep -i 'goldfs@' && fail "the unit is not right"
else
	echo "not tried: systemd-analyze verify"
fi
# A namespace of its own would hide the mount from everybody.
! grep -E '^(Private|Protect|ReadOnly|ReadWrite|Inaccessible|Temporary|Bind|RootDirectory|MountFlags)' \
	"$unit" || fail "an option of the unit needs a mount namespace"

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
usage: tests/bench/record.py FLOOR CACHE

Boots the Debian guest of tests/boot twice, each time from a fresh copy of its image and through the
floor, which notes every request of its disk. Leaves in CACHE: boot.trace, boot.trace.data (floor.c
says what they are) and boot.trace.same, a byte for each 4 KiB that were written: '1' when the other
boot wrote the same bytes somewhere, too, else '0'. So a replay knows what a thousand machines have
in common and what each has for itself.

The guest is asked for what a first boot does besides mounting: an identity, keys, logs, the
libraries' cache, a list of packages. Then it is switched off.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from peers import Failed, run, wait_for  # noqa: E402

GREETING = b"This is the goldfs test guest"
FIRST_BOOT = """\
cat /proc/sys/kernel/random/uuid >/etc/machine-id
head -c 2048 /dev/urandom >/etc/host-key
ldconfig
dpkg -l >/var/log/packages
dmesg >/var/log/dmesg
perl -e 'use POSIX; use Socket; print "up\\n"' >/var/log/services
find /etc /usr/bin /usr/sbin -type f -newer /etc/hostname >/var/log/changed
tar -cf /var/backups/etc.tar -C / etc
for f in /usr/bin/*; do head -c 4096 $f; done >/dev/null
sync
exit
"""
SECONDS = 600


def boot(floor, cache, work, trace):
    """One boot to its end, with its requests noted in trace."""
    disk, point = work / "disk.img", work / "mnt"
    run("cp", "--sparse=always", cache / "disk.img", disk)
    point.mkdir(exist_ok=True)
    server = subprocess.Popen([str(floor), "-r", str(trace), str(disk), str(point)])
    try:
        wait_for(lambda: os.path.ismount(point), "start of floor")
        guest = subprocess.Popen(
            ["timeout", str(SECONDS), "qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-display",
             "none", "-no-reboot", "-nodefaults", "-serial", "stdio",
             "-kernel", str(cache / "vmlinuz"), "-initrd", str(cache / "initrd"),
             "-append", "console=ttyS0 quiet panic=-1 no_timer_check",
             "-drive", f"file={point}/disk,format=raw,if=virtio,cache=none,aio=native,discard=unmap"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = b""
        while GREETING not in said:
            piece = os.read(guest.stdout.fileno(), 4096)
            if not piece:
                raise Failed(f"the guest did not come up: {said[-400:].decode(errors='replace')}")
            said += piece
        for line in FIRST_BOOT.splitlines():
            guest.stdin.write(line.encode() + b"\n")
            guest.stdin.flush()
        said += guest.stdout.read()
        if guest.wait() != 0:
            raise Failed(f"the guest ended with {guest.returncode}: {said[-400:]!r}")
    finally:
        subprocess.run(["umount", str(point)], check=False)
        server.wait()
    disk.unlink()


def pieces(trace):
    """The 4 KiB pieces of each write, in order."""
    with open(trace, encoding="ascii") as lines, open(f"{trace}.data", "rb") as data:
        for line in lines:
            _, op, _, length = line.split()
            if op == "W":
                whole = data.read(int(length))
                for at in range(0, len(whole), 4096):
                    yield whole[at:at + 4096]


def mark_common(trace, other):
    seen = {hashlib.sha256(p).digest() for p in pieces(other)}
    with open(f"{trace}.same", "w", encoding="ascii") as out:
        for piece in pieces(trace):
            out.write("1" if hashlib.sha256(piece).digest() in seen else "0")


def main():
    if len(sys.argv) != 3:
        print(__doc__.split("\n")[1], file=sys.stderr)
        return 2
    floor, cache = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    work = Path(tempfile.mkdtemp(dir=cache))
    try:
        for name in ("one", "two"):
            boot(floor, cache, work, work / name)
        mark_common(work / "one", work / "two")
        for suffix in (".same", ".data", ""):  # the trace last: it says that all are there
            os.replace(work / f"one{suffix}", cache / f"boot.trace{suffix}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

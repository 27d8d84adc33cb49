# SPDX-License-Identifier: MIT
"""
What is compared: each peer turns one golden image into clones that are written to.

A peer is asked for fresh clones of an image, gives the paths of files to read and write, and takes
everything away again, written back, so that the next peer finds a quiet machine. All keep their
bytes below one folder, on one file system. Settings are those that its own documentation calls the
fastest for this use; the report prints them.
"""

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path

FICLONE = 0x40049409
ZEROS = bytes(4 << 20)


class Failed(Exception):
    """A command did not do what was asked; the text is what it said."""


def run(*argv, **kwargs):
    """Runs a command to its end and returns what it printed."""
    argv = [str(a) for a in argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, **kwargs)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def wait_for(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: did not happen in {seconds} s")
        time.sleep(0.005)


def sync_files(folder):
    """Writes back all files below a folder; syncfs would also wait for what others write."""
    for path in (folder, *folder.glob("*")):
        if not path.is_file() and not (path.is_dir() and not os.path.ismount(path)):
            continue
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def unmount(point):
    """Also when a process that was stopped half way still uses it for a moment."""
    wait_for(lambda: subprocess.run(["umount", str(point)], stderr=subprocess.DEVNULL,
                                    check=False).returncode == 0, f"umount of {point}")


def copied(source, target):
    run("cp", "--sparse=auto", source, target)
    sync_files(target.parent)
    return target


class LoopDisk:
    """A file system of our own on a loop device, on a file that is written from end to end.

    So nothing depends on how the file system below is mounted: with `discard`, the removal of a
    file in many pieces keeps its disk busy for a minute, and whoever comes next pays for it.
    """

    def __init__(self, file, size, mountpoint, mkfs):
        self.mountpoint = mountpoint
        self.loop = None
        mountpoint.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as f:
            for _ in range(size // len(ZEROS)):
                f.write(ZEROS)
            os.fsync(f.fileno())
        run(*mkfs, file)
        self.loop = run("losetup", "--find", "--show", "--direct-io=on", file).strip()
        run("mount", self.loop, mountpoint)

    def release(self):
        if os.path.ismount(self.mountpoint):
            unmount(self.mountpoint)
        if self.loop:
            run("losetup", "-d", self.loop)
        self.loop = None


class Peer:
    name = ""
    title = ""
    settings = ""
    programs = ()

    def __init__(self, bench):
        self.bench = bench
        self.dir = bench.work / self.name
        self.images = bench.images
        self.started = False

    def set_options(self, options):
        """Mount options of goldfs; nothing to the others."""

    def missing(self):
        """Why this peer cannot take part, or None."""
        lacking = [p for p in self.programs if not shutil.which(p)]
        return f"not installed: {', '.join(lacking)}" if lacking else None

    def start(self):
        """Makes what all clones need, when it is not there."""
        if not self.started:
            self.dir.mkdir(parents=True, exist_ok=True)
            self.begin()
            self.started = True

    def begin(self):
        pass

    def fresh(self, image, count=1):
        """Returns the paths of count new clones of the image."""
        raise NotImplementedError

    def golden(self, image):
        """A path for readers: a clone that nobody writes to."""
        return self.fresh(image)[0]

    def filled(self, image):
        """A path for those who write and need what is in the image."""
        return self.fresh(image)[0]

    def full(self, image):
        """A path for those who want a copy that shares nothing, all of it allocated."""
        return self.filled(image)

    def settle(self):
        """Returns when all that was written stands where it is to stay."""
        sync_files(self.dir)

    def drop(self):
        """Takes the clones away."""

    def stop(self):
        if self.dir.exists():
            self.end()
            shutil.rmtree(self.dir, ignore_errors=True)
        self.started = False

    def end(self):
        pass

    def stored(self):
        """Bytes on the disk that the clones cost."""
        return int(run("du", "-s", "-B1", self.dir).split()[0])


class Server(Peer):
    """A peer with a process for each clone, which ends when its file is unmounted."""

    def __init__(self, bench):
        super().__init__(bench)
        self.servers = []  # (mount point, processes)

    def serve(self, mountpoint, argv, ready, **kwargs):
        log = open(self.dir / "log", "a", encoding="utf-8")
        process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, **kwargs)
        log.close()
        self.servers.append((mountpoint, process))
        wait_for(lambda: ready() or process.poll() is not None, f"start of {argv[0]}")
        if process.poll() is not None and not ready():
            raise Failed(f"{argv[0]} ended: {(self.dir / 'log').read_text()[-300:]}")

    def drop(self):
        # All are told before anything is unmounted: one whose file is gone may spin until it is
        # told to end, and where many do that takes minutes.
        for _, process in self.servers:
            process.terminate()
        for mountpoint, process in self.servers:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            if mountpoint:
                subprocess.run(["umount", str(mountpoint)], check=False,
                               stderr=subprocess.DEVNULL)
            process.wait()
        self.servers = []
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir()

    def end(self):
        self.drop()


class Goldfs(Peer):
    name = "goldfs"
    title = "goldfs"

    @property
    def settings(self):
        return "mount options: " + (self.options or "none")

    def __init__(self, bench):
        super().__init__(bench)
        self.options = bench.options

    def set_options(self, options):
        if options != self.options:
            self.stop()
            self.options = options

    def begin(self):
        self.mnt = self.dir / "mnt"
        self.store = self.dir / "store"
        self.mnt.mkdir()
        self.kept = set()
        self.serial = 0
        self.mount()

    def mount(self):
        option = f"store={self.store},log={self.dir}/log" + ("," + self.options if self.options else "")
        run(self.bench.goldfs, "mount", "-o", option, self.images, self.mnt)

    def umount(self):
        run(self.bench.goldfs, "umount", self.mnt)

    def keep(self, image):
        """A clone that stays, so that the image's content index is made once. All of the image is
        read for that, in the background."""
        if image in self.kept:
            return
        run(self.bench.goldfs, "clone", self.mnt / "golden" / image, self.mnt / f"kept-{image}")
        self.kept.add(image)
        wait_for(lambda: len([n for n in os.listdir(self.store / "index") if n.isdigit()]) >=
                 len(self.kept) or "dedup=off" in self.options, "index of the image", 120)

    def fresh(self, image, count=1):
        self.keep(image)
        self.serial += 1
        folder = self.mnt / f"set{self.serial}"
        folder.mkdir()
        run(self.bench.goldfs, "clone", "-n", count, self.mnt / "golden" / image, f"{folder}/vm%d.img")
        return [folder / f"vm{n + 1}.img" for n in range(count)]

    def full(self, image):
        """One for all samples: it is not made anew when they are through."""
        path = self.mnt / f"full-{image}"
        if not path.exists():
            self.keep(image)
            run(self.bench.goldfs, "clone", self.mnt / "golden" / image, path)
            run(self.bench.goldfs, "convert", path, "--mode", "full")
            self.settle()
        return path

    def settle(self):
        run(self.bench.goldfs, "settle", self.mnt)

    def drop(self):
        for folder in self.mnt.glob("set*"):
            shutil.rmtree(folder)
        self.settle()

    def pids(self):
        supervisor = (self.store / "lock").read_text().split()[0]
        return [supervisor] + run("ps", "-o", "pid=", "--ppid", supervisor).split()

    def memory(self):
        """Bytes that no file backs, of all its processes."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
        return total

    def stored(self):
        return int(run("du", "-s", "-B1", "--exclude=golden", "--exclude=journal",
                       self.store).split()[0])

    def end(self):
        if os.path.ismount(self.mnt):
            self.umount()


class Floor(Server):
    name = "floor"
    title = "floor"
    settings = ("tests/bench/floor.c, 16 threads, on the image itself (reads), a full copy (mixed "
                "work, full copies) or a new sparse file (writes)")

    def serve_file(self, file, n, *options):
        mnt = self.dir / f"mnt{n}"
        mnt.mkdir()
        self.serve(mnt, [self.bench.tools / "floor", *options, file, mnt], lambda: os.path.ismount(mnt))
        return mnt / "disk"

    def fresh(self, image, count=1):
        size = os.path.getsize(self.images / image)
        paths = []
        for n in range(count):
            file = self.dir / f"file{n}"
            with open(file, "wb") as f:
                f.truncate(size)
            paths.append(self.serve_file(file, n))
        return paths

    def golden(self, image):
        return self.serve_file(self.images / image, "golden", "-R")

    def filled(self, image):
        return self.serve_file(copied(self.images / image, self.dir / "copy"), "copy")


class Sparse(Peer):
    name = "sparse"
    title = "plain file"
    settings = "the image itself (reads), a full copy (mixed work) or a new sparse file (writes)"

    def fresh(self, image, count=1):
        size = os.path.getsize(self.images / image)
        paths = [self.dir / f"file{n}" for n in range(count)]
        for path in paths:
            with open(path, "wb") as f:
                f.truncate(size)
        return paths

    def golden(self, image):
        return self.images / image

    def filled(self, image):
        return copied(self.images / image, self.dir / "copy")

    def drop(self):
        shutil.rmtree(self.dir)
        self.dir.mkdir()


class Reflink(Peer):
    name = "reflink"
    title = "XFS reflink"
    settings = "mkfs.xfs -m reflink=1, on a loop device like that of the others"
    programs = ("mkfs.xfs", "losetup")

    def begin(self):
        """Beside the file system that the others use, not in it: one loop device for each."""
        self.mnt = self.dir / "mnt"
        self.file = self.bench.place / "xfs"
        self.disk = LoopDisk(self.file, self.bench.xfs_bytes, self.mnt,
                             ("mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1"))
        self.held = set()

    def source(self, image):
        file = self.mnt / image
        if image not in self.held:
            run("cp", "--sparse=auto", self.images / image, file)
            run("sync", "-f", self.mnt)
            self.held.add(image)
        return file

    def fresh(self, image, count=1):
        paths = []
        folder = self.mnt / "clones"
        with open(self.source(image), "rb") as source:
            folder.mkdir(exist_ok=True)
            for n in range(count):
                paths.append(folder / f"vm{n}.img")
                with open(paths[-1], "wb") as clone:
                    fcntl.ioctl(clone, FICLONE, source.fileno())
        return paths

    def settle(self):
        run("sync", "-f", self.mnt)

    def drop(self):
        shutil.rmtree(self.mnt / "clones", ignore_errors=True)
        self.settle()

    def stored(self):
        used = os.statvfs(self.mnt)
        return (used.f_blocks - used.f_bfree) * used.f_frsize

    def end(self):
        self.disk.release()
        self.file.unlink()


class Qcow2(Server):
    name = "qcow2"
    title = "qemu-storage-daemon"
    settings = ("qcow2 with backing file, extended_l2=on,cluster_size=128k (4 KiB subclusters), "
                "l2-cache-size for the whole image, discard=unmap, one daemon per clone")
    programs = ("qemu-storage-daemon", "qemu-img")

    def missing(self):
        why = super().missing()
        if not why and "type=]fuse" not in run("qemu-storage-daemon", "--help"):
            return "this qemu-storage-daemon was built without FUSE export"
        return why

    def create(self, image, file):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.images / image,
            "-o", "extended_l2=on,cluster_size=128k", file)

    def serve_file(self, file, n):
        point = self.dir / f"export{n}"
        point.touch()
        self.serve(point, [
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=f,filename={file},discard=unmap",
            "--blockdev", "driver=qcow2,node-name=q,file=f,discard=unmap,l2-cache-size=16777216",
            "--export", f"type=fuse,id=e,node-name=q,mountpoint={point},writable=on"],
            lambda: os.path.ismount(point))
        return point

    def fresh(self, image, count=1):
        paths = []
        for n in range(count):
            file = self.dir / f"vm{n}.qcow2"
            self.create(image, file)
            paths.append(self.serve_file(file, n))
        return paths


class Nbdkit(Server):
    name = "nbdkit"
    title = "nbdkit cow"
    settings = ("nbdkit --filter=cow file cow-block-size=4096 (what is written is not kept, and a "
                "flush has nothing to do), nbdfuse with its 4 connections")
    programs = ("nbdkit", "nbdfuse")

    def fresh(self, image, count=1):
        paths = []
        for n in range(count):
            socket, mnt = self.dir / f"socket{n}", self.dir / f"mnt{n}"
            mnt.mkdir()
            self.serve(None, ["nbdkit", "-f", "-U", socket, "--filter=cow", "file",
                              self.images / image, "cow-block-size=4096"], socket.exists,
                       env=dict(os.environ, TMPDIR=str(self.dir)))
            disk = mnt / "disk"
            self.serve(mnt, ["nbdfuse", disk, f"nbd+unix:///?socket={socket}"], disk.exists)
            paths.append(disk)
        return paths


class Xmount(Server):
    name = "xmount"
    title = "xmount"
    settings = "--in raw --out raw --cache FILE, multi-threaded"
    programs = ("xmount",)

    def fresh(self, image, count=1):
        paths = []
        for n in range(count):
            mnt = self.dir / f"mnt{n}"
            mnt.mkdir()
            disk = mnt / (Path(image).stem + ".dd")
            run("xmount", "--cache", self.dir / f"cache{n}", "--in", "raw", self.images / image,
                "--out", "raw", mnt)
            wait_for(disk.exists, "start of xmount")
            self.mounts.append(mnt)
            paths.append(disk)
        return paths

    def __init__(self, bench):
        super().__init__(bench)
        self.mounts = []

    def drop(self):
        for mnt in self.mounts:
            run("umount", mnt)
            # The process writes its cache back after the mount is gone.
            wait_for(lambda mnt=mnt: not subprocess.run(
                ["pgrep", "-f", f"^xmount .* {mnt}$"], stdout=subprocess.DEVNULL,
                check=False).returncode == 0, "end of xmount")
        self.mounts = []
        super().drop()


ALL = (Goldfs, Floor, Sparse, Reflink, Qcow2, Nbdkit, Xmount)

# SPDX-License-Identifier: MIT
"""
What is measured. A case is one line of the table at the end: it is given a peer, makes what it
needs of it, and returns a Sample. Each is run for every peer in turn, once per round.

Targets are what issue "fast, and shown to be" asks of goldfs: how many times as fast as a peer it
has to be at least. They are shown beside what came out; nothing fails when one is missed.
"""

import ctypes
import json
import os
import time
from dataclasses import dataclass, field

from peers import run, sync_files

MIB = 1 << 20
BLOCK = 4096
LATENCIES = ("50.000000", "99.000000", "99.900000")


@dataclass
class Sample:
    value: float
    latency_us: dict = field(default_factory=dict)  # percentile -> microseconds


@dataclass
class Case:
    name: str
    title: str
    unit: str  # "/s" and "MiB/s": more is better; "s": less is
    measure: object
    peers: tuple
    targets: dict = field(default_factory=dict)  # peer -> least ratio
    group: str = ""
    rounds: int = 0  # 0: as many as are asked for

    @property
    def more_is_better(self):
        return self.unit != "s"


READERS = ("goldfs", "floor", "sparse", "reflink", "qcow2", "nbdkit", "xmount")
WRITERS = READERS


def fio(bench, paths, rw, block, timed=True, **options):
    """Runs one job for each path; returns the parsed result of all of them together."""
    argv = ["fio", "--output-format=json", "--group_reporting", f"--rw={rw}", f"--bs={block}",
            "--fallocate=none", "--randrepeat=0", "--allow_file_create=0", "--invalidate=0",
            "--refill_buffers"]
    options.setdefault("size", bench.size)
    if timed:
        argv += ["--time_based", f"--runtime={bench.seconds * 1000:.0f}ms"]
        options.setdefault("norandommap", 1)
    argv += [f"--{key}={value}" for key, value in options.items()]
    for n, path in enumerate(paths):
        argv += [f"--name=job{n}", f"--filename={path}"]
    return json.loads(run(*argv))["jobs"][0]


def rate(job, bandwidth=False):
    """All requests or MiB per second, with latencies of the kind that there is most of."""
    sides = [job[s] for s in ("read", "write") if job[s]["total_ios"]]
    main = max(sides, key=lambda s: s["total_ios"])
    table = main["clat_ns"].get("percentile", {})
    value = sum(s["bw_bytes"] / MIB if bandwidth else s["iops"] for s in sides)
    return Sample(value, {p: table[p] / 1000 for p in LATENCIES if p in table})


def engine(depth):
    """Options for a queue of that depth; without one the plainest system calls."""
    if depth == 1:
        return {"ioengine": "psync"}
    return {"ioengine": "libaio", "iodepth": depth}


def warm(bench):
    """The golden image in the page cache, as after the first guests."""
    with open(bench.images / "golden.img", "rb", buffering=0) as f:
        while f.read(8 * MIB):
            pass


def forget(path):
    """The file out of the page cache, and nothing of anybody else's."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# ---- reading ----

def reading(depth=1, jobs=1, rw="randread", block="4k", cold=False):
    def measure(bench, peer):
        path = peer.golden("golden.img")
        warm(bench)
        if cold:
            forget(path)
            forget(bench.images / "golden.img")
        job = fio(bench, [path], rw, block, direct=1, numjobs=jobs, **engine(depth))
        return rate(job, bandwidth=block != "4k")
    return measure


def buffered(rw, block):
    def measure(bench, peer):
        path = peer.golden("golden.img")
        size = min(bench.size, 256 * MIB)
        with open(path, "rb", buffering=0) as f:
            for _ in range(size // MIB):
                f.read(MIB)
        job = fio(bench, [path], rw, block, direct=0, ioengine="psync", size=size)
        return rate(job, bandwidth=block != "4k")
    return measure


# ---- writing ----

def own(bench, peer, path, size):
    """So many bytes from the beginning are the clone's, and stand where they are to stay."""
    fio(bench, [path], "write", "1m", timed=False, direct=1, size=size, ioengine="psync",
        end_fsync=1)
    peer.settle()


def writing(depth=1, jobs=1, rw="randwrite", block="4k", owned=0):
    """On a fresh clone, or on a range of `owned` bytes that it has already."""
    def measure(bench, peer):
        path = peer.fresh("golden.img")[0]
        warm(bench)
        options = {}
        if owned:
            options["size"] = min(owned, bench.size)
            own(bench, peer, path, options["size"])
        job = fio(bench, [path], rw, block, direct=1, numjobs=jobs, **options, **engine(depth))
        return rate(job, bandwidth=block != "4k")
    return measure


def full(depth=1, rw="randread", block="4k"):
    """On a copy of its own against one beside goldfs."""
    def measure(bench, peer):
        path = peer.full("golden.img")
        # Both in the page cache, and no page of either new.
        own(bench, peer, path, bench.size)
        fio(bench, [path], "read", "1m", timed=False, direct=1, ioengine="psync")
        return rate(fio(bench, [path], rw, block, direct=1, **engine(depth)), bandwidth=block != "4k")
    return measure


def mixed(bench, peer):
    path = peer.filled("golden.img")
    warm(bench)
    return rate(fio(bench, [path], "randrw", "4k", direct=1, rwmixread=70, **engine(16)))


def synced(writers):
    def measure(bench, peer):
        paths = peer.fresh("golden.img", writers)
        warm(bench)
        job = fio(bench, paths, "randwrite", "4k", direct=0, ioengine="psync", fsync=1)
        # What the client waits for: the write and its fsync.
        return Sample(job["write"]["iops"],
                      {p: (job["write"]["clat_ns"]["percentile"][p] +
                           job["sync"]["lat_ns"]["percentile"][p]) / 1000 for p in LATENCIES})
    return measure


def sustained(bench, peer):
    """Random blocks, many times what a ring holds, until all stands where it is to stay."""
    path = peer.fresh("golden.img")[0]
    warm(bench)
    start = time.monotonic()
    fio(bench, [path], "randwrite", "4k", timed=False, direct=1, io_size=bench.sustained,
        norandommap=1, end_fsync=1, **engine(16))
    peer.settle()
    return Sample(bench.sustained / MIB / (time.monotonic() - start))


def punch(bench, peer):
    """Discards of 64 KiB, one after the other, of blocks that the clone holds."""
    path = peer.fresh("golden.img")[0]
    size, step = min(64 * MIB, bench.size), 64 * 1024
    own(bench, peer, path, size)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDWR)
    start = time.monotonic()
    for off in range(0, size, step):
        # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        if libc.fallocate(fd, 3, ctypes.c_int64(off), ctypes.c_int64(step)) < 0:
            raise OSError(ctypes.get_errno(), "fallocate")
    os.fsync(fd)
    spent = time.monotonic() - start
    os.close(fd)
    return Sample(size / step / spent)


# ---- whole images ----

def small_files(bench, peer):
    """A tree unpacked, walked, read and removed in an ext4 inside the clone."""
    path = peer.filled("ext4.img")
    point = bench.work / "inside"
    point.mkdir(exist_ok=True)
    loop = run("losetup", "--find", "--show", path).strip()
    try:
        run("mount", loop, point)
        start = time.monotonic()
        run("tar", "-xf", bench.work / "tree.tar", "-C", point)
        run("sync", "-f", point)
        run("sh", "-c", 'find "$1" -type f -newer / >/dev/null; grep -rc . "$1" >/dev/null || :',
            "sh", point)
        run("rm", "-rf", *point.glob("tree*"))
        run("umount", point)
        spent = time.monotonic() - start
    finally:
        if os.path.ismount(point):
            run("umount", point)
        run("losetup", "-d", loop)
    return Sample(spent)


def compare(bench, peer):
    path = peer.golden("golden.img")
    warm(bench)
    start = time.monotonic()
    run("cmp", bench.images / "golden.img", path)
    return Sample(time.monotonic() - start)


def creation(count):
    """Until all clones are there, durably."""
    def measure(bench, peer):
        if peer.name == "goldfs":
            peer.keep("golden.img")
        start = time.monotonic()
        if peer.name == "qcow2":
            for n in range(count):
                peer.create("golden.img", peer.dir / f"c{n}.qcow2")
            sync_files(peer.dir)
        elif peer.name == "goldfs":
            peer.fresh("golden.img", count)
        elif peer.name == "reflink":
            peer.source("golden.img")
            start = time.monotonic()
            peer.fresh("golden.img", count)
            peer.settle()
        return Sample(time.monotonic() - start)
    return measure


CREATORS = ("goldfs", "reflink", "qcow2")
COPIES = ("goldfs", "floor")

CASES = [
    Case("read1", "4 KiB random read, direct, depth 1", "/s", reading(), READERS,
         {"floor": 0.90, "qcow2": 2}, "read"),
    Case("read16", "4 KiB random read, direct, depth 16", "/s", reading(16), READERS,
         {"floor": 0.85, "qcow2": 4}, "read"),
    Case("read4x4", "4 KiB random read, direct, 4 jobs of depth 4", "/s", reading(4, 4), READERS,
         {}, "read"),
    Case("readcold", "4 KiB random read, direct, depth 16, cold", "/s", reading(16, cold=True),
         READERS, {}, "read"),
    Case("readseq", "1 MiB sequential read, direct", "MiB/s", reading(rw="read", block="1m"),
         READERS, {"floor": 0.85, "qcow2": 4}, "bandwidth"),
    Case("readseqcold", "1 MiB sequential read, direct, cold", "MiB/s",
         reading(rw="read", block="1m", cold=True), READERS, {}, "bandwidth"),
    Case("readcached", "4 KiB random read of cached data", "/s", buffered("randread", "4k"),
         READERS, {"sparse": 0.9}, "cached"),
    Case("write1", "4 KiB random write, fresh clone, direct, depth 1", "/s", writing(), WRITERS,
         {"floor": 0.8, "qcow2": 4}, "write"),
    Case("write16", "4 KiB random write, fresh clone, direct, depth 16", "/s", writing(16),
         WRITERS, {"floor": 0.8, "qcow2": 4}, "write"),
    Case("write4x4", "4 KiB random write, fresh clone, direct, 4 jobs of depth 4", "/s",
         writing(4, 4), WRITERS, {}, "write"),
    Case("owned1", "4 KiB random write, owned range, direct, depth 1", "/s",
         writing(owned=64 * MIB), WRITERS, {}, "write"),
    Case("owned16", "4 KiB random write, owned range, direct, depth 16", "/s",
         writing(16, owned=64 * MIB), WRITERS, {}, "write"),
    Case("fullread1", "full copy: 4 KiB random read, direct, depth 1", "/s", full(), COPIES,
         {"floor": 0.9}, "full"),
    Case("fullread16", "full copy: 4 KiB random read, direct, depth 16", "/s", full(16), COPIES,
         {"floor": 0.9}, "full"),
    Case("fullreadseq", "full copy: 1 MiB sequential read, direct", "MiB/s",
         full(rw="read", block="1m"), COPIES, {"floor": 0.9}, "bandwidth"),
    Case("fullwrite1", "full copy: 4 KiB random write, direct, depth 1", "/s",
         full(rw="randwrite"), COPIES, {"floor": 0.9}, "full"),
    Case("fullwrite16", "full copy: 4 KiB random write, direct, depth 16", "/s",
         full(16, rw="randwrite"), COPIES, {"floor": 0.9}, "full"),
    Case("fullwriteseq", "full copy: 1 MiB sequential write, direct", "MiB/s",
         full(rw="write", block="1m"), COPIES, {"floor": 0.9}, "bandwidth"),
    Case("sustained", "4 KiB random write, depth 16, many times the ring, until settled", "MiB/s",
         sustained, ("goldfs", "sparse", "reflink", "qcow2"), {"sparse": 0.5, "qcow2": 2},
         "bandwidth"),
    Case("writeseq", "1 MiB sequential write, direct", "MiB/s", writing(rw="write", block="1m"),
         WRITERS, {"floor": 0.8}, "bandwidth"),
    Case("sync1", "4 KiB write+fsync, fresh clone, one writer", "/s", synced(1), WRITERS,
         {"sparse": 1.2, "qcow2": 5, "reflink": 2}, "sync"),
    Case("sync32", "4 KiB write+fsync, 32 writers on 32 clones", "/s", synced(32),
         ("goldfs", "sparse", "reflink", "qcow2"), {"sparse": 1.0, "qcow2": 10}, "sync"),
    Case("mixed", "4 KiB random, 70 % reads, direct, depth 16", "/s", mixed,
         ("goldfs", "floor", "reflink", "qcow2", "nbdkit", "xmount"), {}, "write"),
    Case("discard", "64 KiB discards, one after the other", "/s", punch,
         ("goldfs", "floor", "sparse", "reflink", "qcow2", "nbdkit"), {}, "write"),
    Case("files", "files in an ext4 inside: unpack, walk, read, remove", "s", small_files,
         ("goldfs", "floor", "sparse", "reflink", "qcow2"), {}, "seconds"),
    Case("cmp", "cmp of a whole image", "s", compare, READERS, {}, "seconds"),
    Case("clone1", "creation of 1 clone", "s", creation(1), CREATORS, {}, "clones"),
    Case("clone100", "creation of 100 clones", "s", creation(100), CREATORS, {}, "clones"),
    Case("clone1000", "creation of 1,000 clones", "s", creation(1000), ("goldfs", "reflink"),
         {"reflink": 5}, "clones"),
]

# SPDX-License-Identifier: MIT
"""What a mount of goldfs costs: time and memory against clones, and against written blocks."""

import time

from cases import MIB, fio
from peers import Goldfs

MEASURED_CLONES = 5
BUSY_BLOCKS = 65536


def mounts(bench, results):
    """Stores with ever more clones, mounted anew."""
    rows, points = [], []
    peer = Goldfs(bench)
    peer.start()
    have = 0
    for count in bench.mounts:
        if count > have:
            peer.fresh("golden.img", count - have)
            have = count
        times = []
        for _ in range(bench.rounds):
            peer.umount()
            start = time.monotonic()
            peer.mount()
            times.append(time.monotonic() - start)
        seconds, memory = sorted(times)[len(times) // 2], peer.memory()
        points.append({"clones": have, "mount_seconds": seconds, "memory_bytes": memory})
        rows.append([have, f"{seconds:.3f}", f"{memory / MIB:.1f}"])
    peer.stop()
    results.facts["clones"] = points
    results.tables.append(("A mount with many clones (to reach with 10,000: 2 s, 150 MiB)",
                           ["clones", "seconds to mount", "memory MiB"], rows))


def memory(bench, results):
    """Memory per written block, destaged: one after the other, and every second one. Before,
    a clone is written over and over, for what the journal's index and buffers keep for good."""
    rows, points = [], []
    for kind, least in (("runs", 0.5), ("random", 2.0)):
        peer = Goldfs(bench)
        peer.set_options("dedup=off")
        peer.start()
        blocks = min(BUSY_BLOCKS, bench.size // 8192)
        first, *clones = peer.fresh("golden.img", 1 + MEASURED_CLONES)
        for _ in range(3):
            write_blocks(bench, first, kind, blocks)
        before = settled_memory(peer)
        for path in clones:
            write_blocks(bench, path, kind, blocks)
        total = blocks * len(clones)
        per_block = (settled_memory(peer) - before) / total
        rows.append([kind, total, f"{per_block:.2f}", f"{least:g}"])
        points.append({"kind": kind, "blocks": total, "bytes_per_block": per_block})
        peer.stop()
    results.facts["memory"] = points
    results.tables.append(("Memory per written 4 KiB block, settled",
                           ["written", "blocks", "bytes per block", "at most"], rows))


def write_blocks(bench, path, kind, blocks):
    if kind == "runs":
        fio(bench, [path], "write", "64k", timed=False, size=blocks * 4096, direct=1,
            ioengine="psync")
    else:
        fio(bench, [path], "randwrite", "4k", timed=False, io_size=blocks * 4096, direct=1,
            ioengine="libaio", iodepth=16)


def settled_memory(peer):
    peer.settle()
    time.sleep(5)  # idle threads give their buffers back after that
    return peer.memory()


def run_all(bench, results):
    if bench.wants("mounts"):
        mounts(bench, results)
    if bench.wants("memory"):
        memory(bench, results)

# SPDX-License-Identifier: MIT
"""
The thousand machines: a recorded boot of one Debian guest, replayed on many clones of its image.

A few guests one after the other, more at once, and all of them as a storm. For each the golden
image is thrown out of the page cache first. What is read from the disk is what its block device
counted; what the image takes in memory is what fincore(1) says of it.

And the model by which storage for many machines is planned. A machine's boot reads A bytes, which
a cache of golden blocks answers, and makes the disk do B requests. X disks that do M requests per
second each, under processors that do N, give a throughput Y = min(MX, N), which starts Y / B
machines per second; new bytes C per machine over golden images of D bytes need S = C x T + D for T
machines.
"""

import json
import os

import peers
from cases import MIB, forget
from peers import run

MACHINES = 1000
EACH_LEVEL = ((1, 10), (10, 40), (50, 100))  # at once, guests
QCOW2_GUESTS = 50  # a process for each


def sectors_read(device):
    """Bytes that a block device has read."""
    with open(f"/sys/class/block/{os.path.basename(device)}/stat", encoding="ascii") as f:
        return int(f.read().split()[2]) * 512


def cached(paths):
    """Bytes of these files in the page cache."""
    total = 0
    for n in range(0, len(paths), 100):
        out = run("fincore", "-b", "-n", "-o", "RES", *paths[n:n + 100])
        total += sum(int(line) for line in out.split())
    return total


class Trace:
    """What was recorded: totals, and which blocks are read."""

    def __init__(self, path):
        self.path = path
        self.counts = {"R": 0, "W": 0, "F": 0, "D": 0}
        self.bytes = dict(self.counts)
        blocks = set()
        times = []
        for line in path.read_text().splitlines():
            at, op, off, length = line.split()
            off, length = int(off), int(length)
            self.counts[op] += 1
            self.bytes[op] += length
            times.append(int(at))
            if op == "R":
                blocks.update(range(off // 4096, (off + length + 4095) // 4096))
        self.distinct_read = len(blocks) * 4096
        self.seconds = (times[-1] - times[0]) / 1e9

    def describe(self):
        return (f"{self.counts['R']} reads, {self.bytes['R'] / MIB:.1f} MiB "
                f"({self.distinct_read / MIB:.1f} MiB distinct), {self.counts['W']} writes, "
                f"{self.bytes['W'] / MIB:.2f} MiB, {self.counts['F']} flushes in {self.seconds:.0f} s "
                "under emulation")


def device_of(bench, peer):
    disk = peer.disk if peer.name == "reflink" else bench.disk
    return disk.loop if disk else None


def golden_file(bench, peer):
    return peer.source("guest.img") if peer.name == "reflink" else bench.images / "guest.img"


def replay(bench, peer, trace, at_once, count, buffered=False):
    """One storm; returns what it took and cost."""
    peer.start()
    golden = golden_file(bench, peer)
    stored = peer.stored()
    paths = peer.fresh("guest.img", count)
    forget(golden)
    device = device_of(bench, peer)
    read = sectors_read(device) if device else 0
    options = ["-b"] if buffered else []
    if bench.verify:
        options.append("-v")
    result = json.loads(run(bench.tools / "replay", *options, "-j", at_once, trace.path, *paths))
    result["disk_read"] = sectors_read(device) - read if device else None
    # With reflinks each clone has pages of its own, even of blocks that are shared below.
    result["cached"] = cached([golden] + (list(paths) if peer.name == "reflink" else []))
    peer.settle()
    result["stored"] = peer.stored() - stored
    result.update(peer=peer.name, at_once=at_once, buffered=buffered)
    peer.drop()
    peer.stop()
    return result


def row(result, trace):
    stored = result["stored"] / result["guests"]
    read = result["disk_read"]
    return [result["peer"] + (" buffered" if result["buffered"] else ""), result["at_once"],
            result["guests"], f"{result['seconds']:.2f}", f"{result['median_boot']:.3f}",
            "-" if read is None else f"{read / MIB:.1f}",
            "-" if read is None else f"{read / trace.distinct_read:.2f}",
            f"{result['cached'] / MIB:.1f}", f"{stored / 1024:.0f}"]


def plan(bench):
    """(peer, at once, guests, buffered) in turn."""
    names = {p.name: p for p in bench.peers}
    levels = [(j, min(n, bench.guests)) for j, n in EACH_LEVEL if bench.guests >= j]
    levels.append((bench.guests, bench.guests))
    for at_once, count in levels:
        for name in ("goldfs", "reflink", "qcow2"):
            if name in names and not (name == "qcow2" and at_once > QCOW2_GUESTS):
                yield names[name], at_once, min(count, QCOW2_GUESTS) if name == "qcow2" else count, \
                    False
    if "reflink" in names:
        count = min(bench.guests, 50)
        yield names["reflink"], count, count, True


def capacity(bench, trace, results, storm):
    """The model with what was measured put in."""
    def rate(case):
        mine = results.values.get(case, {}).get("goldfs")
        return sorted(v for v in mine if v)[len(mine) // 2] if mine and any(mine) else None

    disk = os.path.getsize(bench.images / "guest.img")
    data = int(run("du", "-B1", bench.images / "guest.img").split()[0])
    load_b = trace.counts["W"] + trace.counts["F"]
    new_c = storm["stored"] / storm["guests"]
    limit_m, limit_n = rate("sync32"), rate("write16")
    rows = [["A: read by a machine while it boots, from the cache", f"{trace.bytes['R'] / MIB:.1f} MiB"],
            ["B: writes and flushes of a boot, done by the disk", f"{load_b}"],
            ["C: new bytes of a machine, deduplicated", f"{new_c / MIB:.2f} MiB"],
            ["D: the golden image's data", f"{data / MIB:.0f} MiB"]]
    if limit_m and limit_n:
        y = min(limit_m, limit_n)
        rows += [["M: synced writes per second of this disk (sync32)", f"{limit_m:.0f}"],
                 ["N: writes per second that the processors do (write16)", f"{limit_n:.0f}"],
                 ["Y = min(M x 1, N); machines started per second, Y / B",
                  f"{y:.0f}; {y / load_b:.1f}"]]
    full, thin = disk * MACHINES, (data + trace.bytes["W"]) * MACHINES
    clones = new_c * MACHINES + data
    gib = 1 << 30
    rows += [[f"S for {MACHINES} full copies", f"{full / gib:.1f} GiB"],
             [f"S for {MACHINES} thin copies", f"{thin / gib:.1f} GiB"],
             [f"S for {MACHINES} clones, C x T + D", f"{clones / gib:.2f} GiB, "
              f"{100 * clones / full:.2f} % of full copies"]]
    results.tables.append(("The capacity model, one disk", ["figure", "measured"], rows))
    results.facts["capacity"] = dict(
        A_read_bytes=trace.bytes["R"], B_requests=load_b, C_new_bytes=new_c, D_golden_bytes=data,
        M=limit_m, N=limit_n, S_full=full, S_thin=thin, S_clones=clones)


def run_all(bench, results, say):
    path = bench.trace
    if not path.exists():
        results.notes.append("left out: the thousand machines: no boot is recorded, type "
                             "'make bench-boot'")
        return
    trace = Trace(path)
    results.notes.append("recorded boot: " + trace.describe())
    run("cp", "--sparse=always", path.parent / "disk.img", bench.images / "guest.img")
    peers.sync_files(bench.images)
    done, storm = [], None
    for peer, at_once, count, buffered in plan(bench):
        try:
            result = replay(bench, peer, trace, at_once, count, buffered)
        except (peers.Failed, OSError) as error:
            results.notes.append(f"failed: {count} guests with {peer.name}: {error}")
            say(f"    {peer.name}: {error}")
            peer.stop()
            continue
        done.append(result)
        if peer.name == "goldfs":
            storm = result
        say(f"  guests: {' '.join(str(c) for c in row(result, trace))}")
    results.tables.append((
        "A recorded boot replayed, direct I/O, no pauses; each line with cold caches",
        ["peer", "at once", "guests", "seconds", "median boot s", "read MiB", "x distinct",
         "golden in memory MiB", "stored per guest KiB"], [row(r, trace) for r in done]))
    results.facts["guests"] = done
    if storm:
        capacity(bench, trace, results, storm)

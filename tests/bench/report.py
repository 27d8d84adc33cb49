# SPDX-License-Identifier: MIT
"""What came out: a table for the terminal, report.md, results.json and plots by gnuplot."""

import json
import shutil
import statistics
import subprocess

PERCENTILES = {"50.000000": "p50", "99.000000": "p99", "99.900000": "p99.9"}


def short(value):
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def ratio(case, mine, other):
    """How many times as fast goldfs was: the median over the rounds of the ratio in each."""
    pairs = [(a, b) for a, b in zip(mine, other) if a and b]
    return median([a / b if case.more_is_better else b / a for a, b in pairs])


class Results:
    """values[case][peer] and latencies[case][peer]: one entry for each round, None: it failed."""

    def __init__(self, bench):
        self.bench = bench
        self.cases = []
        self.values = {}
        self.latencies = {}
        self.notes = []  # texts
        self.tables = []  # (title, head, rows)
        self.facts = {}  # for results.json

    def add(self, case, peer, sample):
        if case not in self.cases:
            self.cases.append(case)
        self.values.setdefault(case.name, {}).setdefault(peer.name, []).append(
            sample.value if sample else None)
        if sample and sample.latency_us:
            self.latencies.setdefault(case.name, {}).setdefault(peer.name, []).append(
                sample.latency_us)

    def medians(self, case):
        return {p: median(v) for p, v in self.values[case.name].items()}

    def ratios(self, case):
        mine = self.values[case.name].get("goldfs", [])
        return {p: ratio(case, mine, v) for p, v in self.values[case.name].items()
                if p != "goldfs"}

    def latency(self, case, peer, percentile):
        return median([s.get(percentile) for s in
                       self.latencies.get(case.name, {}).get(peer, [])])

    def verdicts(self, case):
        """(peer, ratio, least ratio) for each target that was measured."""
        ratios = self.ratios(case)
        return [(p, ratios[p], least) for p, least in case.targets.items()
                if ratios.get(p) is not None]

    # ---- texts ----

    def main_table(self):
        names = [p.name for p in self.bench.peers]
        rows = []
        for case in self.cases:
            medians, ratios = self.medians(case), self.ratios(case)
            cells = [case.title, case.unit]
            for name in names:
                text = short(medians.get(name))
                if ratios.get(name) is not None:
                    text += f" ({ratios[name]:.2f})"
                cells.append(text)
            rows.append(cells)
        return ["case", "unit"] + names, rows

    def target_table(self):
        rows = []
        for case in self.cases:
            for peer, got, least in self.verdicts(case):
                rows.append([case.title, peer, f"{least:g}", f"{got:.2f}",
                             "yes" if got >= least else "NO"])
        return ["case", "against", "at least", "measured", "reached"], rows

    def latency_table(self):
        rows = []
        for case in self.cases:
            for peer in self.bench.peers:
                cells = [self.latency(case, peer.name, p) for p in PERCENTILES]
                if cells[0] is not None:
                    rows.append([case.title, peer.name] + [short(c) for c in cells])
        return ["case", "peer"] + [f"{p} us" for p in PERCENTILES.values()], rows

    def all_tables(self):
        yield ("Results: medians, and in brackets how many times as fast goldfs was",
               *self.main_table())
        yield ("What goldfs is to reach", *self.target_table())
        for table in self.tables:
            yield table
        yield ("Latencies, where single requests were timed", *self.latency_table())

    def conditions(self):
        lines = [f"- {key}: {value}" for key, value in self.bench.conditions().items()]
        lines += [f"- {p.name} ({p.title}): {p.settings}" for p in self.bench.peers]
        lines += [f"- left out: {name}: {why}" for name, why in self.bench.left_out.items()]
        return lines + [f"- {note}" for note in self.notes]

    def print_tables(self, out):
        for title, head, rows in self.all_tables():
            if not rows:
                continue
            widths = [max(len(str(r[i])) for r in [head] + rows) for i in range(len(head))]
            print(f"\n{title}", file=out)
            for row in [head] + rows:
                cells = [str(c).ljust(w) if i == 0 else str(c).rjust(w)
                         for i, (c, w) in enumerate(zip(row, widths))]
                print("  ".join(cells).rstrip(), file=out)
        print("\n" + "\n".join(self.conditions()), file=out)

    def markdown(self, plots):
        text = ["# goldfs side by side", "", *self.conditions()]
        for title, head, rows in self.all_tables():
            if rows:
                text += ["", f"## {title}", "", "| " + " | ".join(head) + " |",
                         "|" + " --- |" * len(head)]
                text += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
        if plots:
            text += ["", "## Plots", ""] + [f"![{name}]({name})" for name in plots]
        return "\n".join(text) + "\n"

    def as_json(self):
        return {
            "conditions": self.bench.conditions(),
            "peers": {p.name: p.settings for p in self.bench.peers},
            "left_out": self.bench.left_out,
            "notes": self.notes,
            "cases": [{
                "name": c.name, "title": c.title, "unit": c.unit, "targets": c.targets,
                "values": self.values[c.name], "medians": self.medians(c),
                "ratios": self.ratios(c), "latency_us": self.latencies.get(c.name, {}),
            } for c in self.cases],
            "tables": [{"title": t, "head": h, "rows": r} for t, h, r in self.tables],
            **self.facts,
        }

    # ---- plots ----

    def bars(self, group, title, label):
        """A histogram of all cases of a group, a colour for each peer."""
        cases = [c for c in self.cases if c.group == group]
        names = [p.name for p in self.bench.peers]
        if not cases:
            return None
        rows = [[c.title] + [self.medians(c).get(n) for n in names] for c in cases]
        return histogram(title, label, names, rows)

    def latency_bars(self):
        """p99 of each case, in microseconds."""
        names = [p.name for p in self.bench.peers]
        cases = [c for c in self.cases if c.name in self.latencies]
        if not cases:
            return None
        rows = []
        for c in cases:
            for percentile, label in PERCENTILES.items():
                rows.append([f"{c.name} {label}"] +
                            [self.latency(c, n, percentile) for n in names])
        return histogram("latency percentiles", "microseconds", names, rows, width=2000)

    def plots(self):
        yield "read.svg", self.bars("read", "4 KiB random reads", "requests per second")
        yield "cached.svg", self.bars("cached", "reads of cached data", "requests per second")
        yield "write.svg", self.bars("write", "4 KiB writes", "requests per second")
        yield "full.svg", self.bars("full", "4 KiB, full copies", "requests per second")
        yield "bandwidth.svg", self.bars("bandwidth", "throughput", "MiB per second")
        yield "sync.svg", self.bars("sync", "4 KiB write+fsync", "requests per second")
        yield "seconds.svg", self.bars("seconds", "whole images", "seconds")
        yield "creation.svg", self.bars("clones", "creation of clones", "seconds")
        yield "latency.svg", self.latency_bars()
        clones = self.facts.get("clones")
        if clones:
            yield "clones.svg", curve("a mount against the number of clones", clones)

    def write_plots(self, folder):
        if not shutil.which("gnuplot"):
            self.notes.append("no plots: gnuplot is not installed")
            return []
        made = []
        for name, script in self.plots():
            if script:
                text = f'set output "{folder / name}"\n' + script
                subprocess.run(["gnuplot"], input=text, text=True, check=True)
                made.append(name)
        return made

    def write(self, folder, out):
        plots = self.write_plots(folder)
        (folder / "results.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
        (folder / "report.md").write_text(self.markdown(plots))
        self.print_tables(out)


def histogram(title, label, names, rows, width=1200):
    """A gnuplot script. Logarithmic: the peers differ by factors."""
    lines = [f"set terminal svg size {width},640 dynamic background rgb 'white'",
             f'set title "{title}"', f'set ylabel "{label}"', "set logscale y",
             "set style data histograms", "set style fill solid 0.8", "set grid ytics",
             "set key outside", "set xtics rotate by -30", "set datafile missing '?'",
             "set rmargin 20", "$data << EOD", "case " + " ".join(names)]
    for row in rows:
        lines.append(f'"{row[0]}" ' + " ".join(f"{v:.6g}" if v else "?" for v in row[1:]))
    lines += ["EOD", "plot " + ", ".join(
        f"$data using {i + 2}" + (":xtic(1)" if i == 0 else "") + f" title '{n}'"
        for i, n in enumerate(names))]
    return "\n".join(lines) + "\n"


def curve(title, points):
    """A gnuplot script of (clones, seconds, bytes)."""
    lines = ["set terminal svg size 900,540 dynamic background rgb 'white'",
             f'set title "{title}"', "set logscale xy", 'set xlabel "clones"',
             'set ylabel "seconds"', 'set y2label "MiB"', "set logscale y2", "set y2tics",
             "set grid", "set key left top", "$data << EOD"]
    lines += [f"{p['clones']} {p['mount_seconds']:.6g} {p['memory_bytes'] / (1 << 20):.6g}"
              for p in points]
    lines += ["EOD", "plot $data using 1:2 with linespoints title 'seconds to mount', "
              "$data using 1:3 axes x1y2 with linespoints title 'memory of the daemon, MiB'"]
    return "\n".join(lines) + "\n"

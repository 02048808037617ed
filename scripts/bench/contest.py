"""Servers measured in turn, round by round, and the row of their ratios."""

from dataclasses import dataclass
from typing import Optional

import machine
from measure import CLIENT_LIMIT, Ratios, median
from objects import MIB
from report import Row, notes


@dataclass
class Goal:
    at_least: Optional[float] = None  # throughput, as a multiple of the other server
    at_most: Optional[float] = None  # CPU per unit, as a multiple of the other server
    # Judges by CPU if the client was the bottleneck. Meant for clients that cost more than the server.
    or_cpu: bool = False

    def text(self):
        return ", ".join(
            ([f">= {self.at_least}"] if self.at_least else []) + ([f"CPU <= {self.at_most}"] if self.at_most else [])
        )

    def met(self, speed, cost, limited):
        if not self.text():
            return None
        if limited and self.or_cpu:
            speed = 1 / cost
        return (not self.at_least or speed >= self.at_least) and (not self.at_most or cost <= self.at_most)


class Runs:
    """The samples of each server, by its name."""

    def __init__(self, samples, load):
        self.samples = samples
        self.load = load  # highest load average before a sample

    def __getitem__(self, name):
        return self.samples[name]

    def ratios(self, figure, mine, theirs):
        return Ratios(*([figure(sample) for sample in self.samples[name]] for name in (mine, theirs)))

    def before(self, speed, cost):
        """Returns the column of the comparison with the earlier binary, or "" without one."""
        if "before" not in self.samples:
            return ""
        return f"{self.ratios(speed, 'ours', 'before').text()}, CPU {self.ratios(cost, 'ours', 'before').text()}"

    def load_note(self):
        """Returns a note if other processes may have slowed the servers."""
        cpus = len(machine.CPUS)
        return f"load average {self.load:.1f} on {cpus} CPUs before a sample" if self.load > cpus else ""


def measured(servers, sample, rounds, files=()):
    """Calls `sample` for each server in each round. Every other round has the reverse order.

    `files` are evicted and read once in order before every sample.
    """
    samples, load = {server.name: [] for server in servers}, 0.0
    for number in range(rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            for file in files:
                machine.reread(file)
            load = max(load, machine.load())
            samples[server.name].append(sample(server))
    return Runs(samples, load)


def row(name, item, runs, other, goal, registry=""):
    """Returns the row that compares ours with `other`."""
    speed = runs.ratios(lambda sample: sample.bytes_per_second, "ours", other)
    cost = runs.ratios(lambda sample: sample.cpu_per_gib(), "ours", other)
    whole = runs.ratios(lambda sample: sample.machine_cpu / sample.bytes, "ours", other)
    client = [max(sample.client_cpu for sample in runs[which]) for which in ("ours", other)]
    limited = max(client) > CLIENT_LIMIT
    busy = "the client was the bottleneck" + (f": ratio by CPU {1 / cost.median:.2f}" if goal.or_cpu else "")
    return Row(
        case=name,
        ours=speed_text(item, runs["ours"]),
        other=speed_text(item, runs[other]),
        ratio=speed.text(),
        cpu=f"{cost_text(item, runs['ours'])} / {cost_text(item, runs[other])}",
        cpu_ratio=cost.text(),
        machine=f"{whole.median:.2f}",
        before=runs.before(lambda sample: sample.bytes_per_second, lambda sample: sample.cpu_per_gib()),
        registry=registry,
        client=f"{client[0]:.2f} / {client[1]:.2f}",
        goal=goal.text(),
        met=goal.met(speed.median, cost.median, limited),
        note=notes(busy if limited else "", runs.load_note()),
    )


def speed_text(item, samples):
    if item.size < MIB:
        return f"{median([sample.requests_per_second for sample in samples]) / 1e3:.1f} k/s"
    return f"{median([sample.bytes_per_second for sample in samples]) / 1e9:.2f} GB/s"


def cost_text(item, samples):
    if item.size < MIB:
        return f"{median([sample.cpu_per_request() for sample in samples]) * 1e6:.2f} us"
    return f"{median([sample.cpu_per_gib() for sample in samples]) * 1e3:.0f} ms/GiB"

"""A part of the page: a quantity that grows, and the figures measured for each value."""

import csv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs/development/growth"


@dataclass(frozen=True)
class Part:
    name: str
    title: str
    x: str  # column of the growing quantity
    time: str  # columns of the plot
    cpu: str
    memory: str

    @property
    def file(self):
        return FOLDER / f"{self.name}.csv"

    def write(self, rows):
        FOLDER.mkdir(parents=True, exist_ok=True)
        with open(self.file, "w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)

    def read(self):
        """Returns the rows, or none if the part was not measured."""
        if not self.file.exists():
            return []
        with open(self.file, newline="") as file:
            return list(csv.DictReader(file))


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}"


PARTS = [
    Part("objects", "Objects in the store", "objects", "first_hit_p95_ms", "cpu_us_per_hit", "rss_mib"),
    Part("connections", "Open connections at 5,000 requests per second", "connections", "p95_ms", "cpu_us_per_request", "rss_mib"),
    Part("cores", "Cores", "cores", "small_hits_us", "cpu_us_per_request", "rss_mib"),
    Part("sizes", "Size of the blob in KiB", "kib", "ms_per_hit", "cpu_us_per_hit", "rss_mib"),
    Part("followers", "Clients of one cold blob of 16 MiB", "clients", "seconds", "cpu_ms_per_client", "rss_peak_mib"),
    Part("registries", "Registries in the configuration, with 1,000 cold blobs", "registries", "seconds", "cpu_us_per_pull", "rss_mib"),
]

"""The table of results."""

from dataclasses import dataclass
from typing import Optional

COLUMNS = {
    "case": "case",
    "ours": "ours",
    "other": "against",
    "ratio": "ratio (min-max)",
    "cpu": "CPU ours / against",
    "cpu_ratio": "CPU ratio",
    "machine": "machine CPU ratio",
    "before": "against BENCH_BEFORE",
    "registry": "registries",
    "client": "client CPU",
    "goal": "goal",
}


@dataclass
class Row:
    case: str
    ours: str = ""
    other: str = ""
    ratio: str = ""
    cpu: str = ""
    cpu_ratio: str = ""
    machine: str = ""
    before: str = ""
    registry: str = ""
    client: str = ""
    goal: str = ""
    met: Optional[bool] = None
    note: str = ""

    def verdict(self):
        return {None: "", True: "reached", False: "NOT REACHED"}[self.met]

    def line(self):
        """Returns all fields of the row, for the progress output."""
        parts = [self.case, self.ours and f"ours {self.ours}", self.other and f"against {self.other}"]
        parts += [self.ratio and f"ratio {self.ratio}", self.cpu and f"CPU {self.cpu}"]
        parts += [self.cpu_ratio and f"CPU ratio {self.cpu_ratio}", self.before and f"against BENCH_BEFORE {self.before}"]
        parts += [self.registry and f"registries {self.registry}", self.client and f"client CPU {self.client}"]
        parts += [self.goal and f"goal {self.goal}", self.verdict(), self.note]
        return " | ".join(part for part in parts if part)


def notes(*parts):
    """Joins the notes of a row. Empty notes are left out."""
    return "; ".join(part for part in parts if part)


def table(rows):
    used = [name for name in COLUMNS if any(getattr(row, name) for row in rows)]
    cells = [[COLUMNS[name] for name in used] + [""]]
    cells += [[getattr(row, name) for name in used] + [row.verdict()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    remarks = [f"{row.case}: {row.note}" for row in rows if row.note]
    return "\n".join(lines + ([""] + remarks if remarks else []))

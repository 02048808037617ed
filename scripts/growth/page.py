"""Draws the plot and the tables of docs/development/growth.md from the raw figures."""

import plot
from part import FOLDER, PARTS, ROOT

PAGE = ROOT / "docs/development/growth.md"
PLOT = ROOT / "docs/development/growth.svg"
MACHINE = FOLDER / "machine.txt"
ALTERNATIVE = "Time, CPU and memory by objects, connections, cores, sizes, followers and registries"
MARK = "<!-- Everything below is drawn by scripts/growth.sh. -->"


def keep_machine(text):
    FOLDER.mkdir(parents=True, exist_ok=True)
    MACHINE.write_text(text + "\n")


def draw():
    measured = [(part, rows) for part in PARTS if (rows := part.read())]
    PLOT.write_text(plot.svg(measured))
    head = PAGE.read_text().split(MARK)[0]
    tables = "\n".join(_table(part, rows) for part, rows in measured)
    ran = f"The last run was on this machine:\n\n```text\n{MACHINE.read_text()}```\n\n" if MACHINE.exists() else ""
    PAGE.write_text(f"{head}{MARK}\n\n![{ALTERNATIVE}]({PLOT.name})\n\n{ran}{tables}")
    print(f"{PLOT.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def _table(part, rows):
    names = list(rows[0])
    lines = [f"## {part.title}", "", "| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|" + "---|" * len(names))
    lines += ["| " + " | ".join(_number(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _number(text):
    value = float(text)
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


if __name__ == "__main__":
    draw()

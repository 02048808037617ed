"""Measures the selected parts, and draws the page from all raw figures."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "bench"))

import cold  # noqa: E402
import machine  # noqa: E402
import objects  # noqa: E402
import page  # noqa: E402
import store  # noqa: E402
import warm  # noqa: E402
import workplace  # noqa: E402
from part import PARTS  # noqa: E402
from stage import Stage  # noqa: E402

MEASURED = {
    "objects": store.objects_in_store,
    "connections": warm.connections,
    "cores": warm.cores,
    "sizes": warm.sizes,
    "followers": cold.followers,
    "registries": cold.registries,
}


def main():
    wanted = sys.argv[1:] or list(MEASURED)
    unknown = set(wanted) - set(MEASURED)
    if unknown:
        sys.exit(f"growth: unknown part {', '.join(unknown)}; expected one of {' '.join(MEASURED)}")
    directory = Path(os.environ["BENCH_DIR"]).resolve()
    workplace.claim(directory)
    machine.enter_namespace(os.environ["BENCH_CC"])
    described = machine.description(directory)
    print(described, flush=True)
    # Without the third line, which names a directory of this machine.
    page.keep_machine("\n".join(described.splitlines()[:2]))
    with Stage(directory) as stage:
        items = objects.prepare(directory, with_huge=False)
        for part in PARTS:
            if part.name not in wanted:
                continue
            print(f"-- {part.name}", flush=True)
            rows = []
            for row in MEASURED[part.name](stage, items):
                rows.append(row)
                print("   " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
            part.write(rows)
            stage.stop_all()
    page.draw()


if __name__ == "__main__":
    main()

"""Prepares the machine and the objects, runs the selected cases, and prints the table."""

import json
import os
import signal
import sys
from pathlib import Path

import cases
import machine
import objects
import report
import workplace
from server import Failed, Missing
from setup import Setup, Skip
from stage import Stage


def main():
    arguments = sys.argv[1:]
    mode = arguments.pop(0) if arguments and arguments[0] in ("quick", "full") else "quick"
    unknown = [name for name in arguments if name not in cases.ALL]
    if unknown:
        sys.exit(f"bench: unknown case {', '.join(unknown)}; expected one of {' '.join(cases.ALL)}")
    # SIGTERM raises an exception, so that every server is stopped at exit.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    directory = Path(os.environ["BENCH_DIR"]).resolve()
    workplace.claim(directory)
    machine.enter_namespace(os.environ["BENCH_CC"])
    print(machine.description(directory), flush=True)

    names = arguments or list(cases.ALL)
    with Stage(directory) as stage:
        setup = Setup(
            stage=stage,
            objects=objects.prepare(directory, with_huge="cold-stall" in names),
            quick=mode == "quick",
            rounds=int(os.environ.get("BENCH_ROUNDS", 3 if mode == "quick" else 5)),
        )
        rows = []
        for name in names:
            print(f"-- {name}", flush=True)
            try:
                for row in cases.ALL[name](setup):
                    rows.append(row)
                    print("   " + row.line(), flush=True)
            except (Skip, Missing) as reason:
                print(f"   skipped: {reason}", flush=True)
                rows.append(report.Row(case=name, note=f"skipped: {reason}"))
            except Failed as error:
                print(f"   FAILED: {error}", flush=True)
                rows.append(report.Row(case=name, note=f"failed: {error}", met=False))
            finally:
                stage.stop_all()
    print()
    print(report.table(rows))
    (directory / "results.json").write_text(json.dumps([vars(row) for row in rows], indent=1))
    missed = [row.case for row in rows if row.met is False]
    # A missed goal is a result. A broken case is a failure.
    broken = any(row.note.startswith("failed") for row in rows)
    print(f"\ngoals not reached: {', '.join(missed)}" if missed else "\nevery measured goal is reached")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()

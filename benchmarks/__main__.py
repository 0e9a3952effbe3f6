"""Runs every benchmark and writes one table and one JSON file; compares two of those.

    python -m benchmarks [--tiny] [--only NAME ...] [--save NAME] [--compare NAME]

Each file of this folder answers one question with `run(tiny) -> dict`; all figures are ratios or
medians of one run on one machine, so only two runs of the same machine can be compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE.parent / "out" / "bench"
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def measure(names: list[str], *, tiny: bool) -> dict:
    found = {}
    for name in names:
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = importlib.import_module(f"benchmarks.{name}").run(tiny)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def figures(value: object, path: str = "") -> dict[str, float]:
    """Return every number of a result with its path, as `jobs.at once: 200.ratio.median`."""
    if isinstance(value, dict):
        found: dict[str, float] = {}
        for name, inner in value.items():
            found |= figures(inner, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list):
        return figures(dict(enumerate(value)), path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {path: float(value)}
    return {}


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks")
    arguments.add_argument("--tiny", action="store_true", help="once, small: does it still run?")
    arguments.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    arguments.add_argument("--save", metavar="NAME", help="keep the figures under this name")
    arguments.add_argument("--compare", metavar="NAME", help="show what changed since NAME")
    given = arguments.parse_args()
    found = measure(given.only, tiny=given.tiny)
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{given.save or 'last'}.json").write_text(json.dumps(found, indent=1) + "\n")
    now = figures(found)
    if given.compare:
        before = figures(json.loads((KEPT / f"{given.compare}.json").read_text()))
        for path in now.keys() & before.keys():
            if before[path] and abs(now[path] / before[path] - 1) > 0.02:
                print(
                    f"{now[path] / before[path]:6.2f}x  {path}: {before[path]:g} -> {now[path]:g}"
                )
    else:
        for path, figure in now.items():
            print(f"{figure:12g}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs every benchmark and writes one table and one JSON file; compares two of those.

    python -m benchmarks [--tiny] [--only NAME ...] [--save NAME] [--compare NAME]

Each file of this folder answers one question with `run(tiny) -> dict`; all figures are ratios or
medians of one run on one machine, so only two runs of the same machine can be compared. What a
benchmark promises stands in its `bars` (see `_bars`): the table says which are held. A miss is no
failure of the command: machines are noisy, and a person judges.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
KEPT = HERE.parent / "out" / "bench"
NAMES = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
#: A change that is shown: less is noise.
CHANGE = 0.02
WIDTH = 58


def measure(names: list[str], *, tiny: bool) -> Iterator[tuple[str, dict]]:
    """Yield each result as soon as it is there: what took minutes is then kept at once."""
    for name in names:
        began = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        result = importlib.import_module(f"benchmarks.{name}").run(tiny)
        result["took_s"] = round(time.monotonic() - began)
        print(f"{name} took {result['took_s']} s", file=sys.stderr, flush=True)
        yield name, result


def figures(value: object, path: str = "") -> dict[str, float]:
    """Return every number of a result with its path, as `jobs.at once: 200.ratio.median`."""
    if isinstance(value, dict):
        found: dict[str, float] = {}
        for name, inner in value.items():
            if name not in ("took_s", "bars"):
                found |= figures(inner, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list):
        return figures(dict(enumerate(value)), path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {path: float(value)}
    return {}


# --- telling -------------------------------------------------------------------------------------


def rows(value: object, path: str = "") -> list[tuple[str, float, str]]:
    """Return (figure, median, spread) of a result; a single number has no spread."""
    if not isinstance(value, dict):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return [(path, float(value), "")] if number else []
    if "median" in value:
        ends = [value[name] for name in ("min", "from", "max", "to", "p99") if name in value]
        spread = "..".join(f"{end:g}" for end in ends)
        return [
            (path, value["median"], spread + (f" ({value['runs']})" if "runs" in value else ""))
        ]
    found = []
    for name, inner in value.items():
        if name not in ("bars", "took_s", "goals", "runs", "at_once"):
            found += rows(inner, f"{path}, {name}" if path else str(name))
    return found


def told(name: str, result: dict) -> list[str]:
    """Return the table of one benchmark."""
    own = getattr(importlib.import_module(f"benchmarks.{name}"), "table", None)
    lines = [f"\n{name}: {result['question']} ({result.get('took_s', 0)} s)"]
    lines += [f"  {'':{WIDTH}} {'median':>10}  least..most (runs)"]
    for absent in result.get("missing", []):
        lines.append(f"  not installed, not measured: {absent}")
    if own is not None:
        lines.append(own(result))
    else:
        lines += [f"  {path:{WIDTH}} {of:>10g}  {spread}" for path, of, spread in rows(result)]
    return lines


def verdicts(found: dict) -> list[str]:
    """Return the table of what is promised: figure, median, spread, bar, held or not."""
    lines = [f"\n{'promised':{WIDTH}}   {'median':>10}  {'bar':>10}  held?  spread (runs)"]
    for name, result in found.items():
        for bar in result.get("bars", []):
            held = {True: "yes", False: "NO", None: "?"}[bar["held"]]
            value = "-" if bar["value"] is None else f"{bar['value']:.4g}"
            spread = f"{bar['min']:g}..{bar['max']:g}" if "min" in bar else bar.get("why", "")
            spread += f" ({bar['runs']})" if "runs" in bar else ""
            what = f"{name}: {bar['name']}"
            limit = f"{bar['is']} {bar['limit']:.4g}"
            lines.append(f"  {what:{WIDTH}} {value:>10}  {limit:>10}  {held:5}  {spread}")
    return lines


def changes(now: dict, before: dict) -> list[str]:
    """Return what differs from an earlier run by more than noise."""
    lines = []
    new, old = figures(now), figures(before)
    for path in new.keys() & old.keys():
        if old[path] and abs(new[path] / old[path] - 1) > CHANGE:
            lines.append(f"{new[path] / old[path]:6.2f}x  {path}: {old[path]:g} -> {new[path]:g}")
    return sorted(lines, key=lambda line: line.partition("x  ")[2])


def main(words: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks")
    arguments.add_argument("--tiny", action="store_true", help="once, small: does it still run?")
    arguments.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    arguments.add_argument("--save", metavar="NAME", help="keep the figures under this name")
    arguments.add_argument("--compare", metavar="NAME", help="show what changed since NAME")
    arguments.add_argument("--folder", type=Path, default=KEPT, help="where figures are kept")
    given = arguments.parse_args(words)
    before = None
    if given.compare:
        # Read first: it may be missing, or about to be overwritten, and measuring takes minutes.
        before = json.loads((given.folder / f"{given.compare}.json").read_text(encoding="utf-8"))
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / (given.save or "last")
    found: dict = {}
    for name, result in measure(given.only, tiny=given.tiny):
        found[name] = result
        kept.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [line for name, result in found.items() for line in told(name, result)]
    lines += verdicts(found)
    if before is not None:
        lines += [f"\nsince {given.compare}", *changes(found, before)]
    kept.with_suffix(".txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a benchmark promises, in a form that a table and a machine can read."""

from __future__ import annotations

import statistics


def spread(seen: list[float], digits: int = 3) -> dict:
    """Return median, least and most of what was seen."""
    return {
        "median": round(statistics.median(seen), digits),
        "min": round(min(seen), digits),
        "max": round(max(seen), digits),
        "runs": len(seen),
    }


def paired(ours: list[float], theirs: list[float]) -> dict:
    """Return the spread of ratios within each round: what else the machine does strikes both."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def at_most(name: str, figure: float | dict, limit: float) -> dict:
    return _bar(name, figure, "<=", limit)


def at_least(name: str, figure: float | dict, limit: float) -> dict:
    return _bar(name, figure, ">=", limit)


def below(name: str, figure: float | dict, limit: float) -> dict:
    return _bar(name, figure, "<", limit)


def unmeasured(name: str, limit: float, why: str) -> dict:
    """Return a bar of which nothing is known here: neither held nor missed."""
    return {"name": name, "value": None, "is": "<=", "limit": limit, "held": None, "why": why}


def _bar(name: str, figure: float | dict, relation: str, limit: float) -> dict:
    value = figure["median"] if isinstance(figure, dict) else figure
    held = {"<=": value <= limit, ">=": value >= limit, "<": value < limit}[relation]
    found = {"name": name, "value": value, "is": relation, "limit": limit, "held": held}
    if isinstance(figure, dict):
        found |= {word: figure[word] for word in ("min", "max", "runs") if word in figure}
    return found

"""The drawing in the README: lag over polls, of the default policy and of its rivals."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from benchmarks._schedules import fixed, mean, optimum_for, rivals, scheduled
from benchmarks._simulation import Case, live, stream
from grok_video._polling import Experience, Polling

if TYPE_CHECKING:
    from pathlib import Path


def plot(path: Path, jobs: int = 1200) -> None:
    """Draw the frontier of one case: lag over polls, both as ratios a reader can see at once."""
    case = Case(45, 0.25, 0)
    dice = random.Random(0)
    ends = [case.draw(dice) for _ in range(4000)]
    curves = {
        "any fixed interval": ("#888", [fixed(d, ends) for d in (3, 4, 5, 6, 8, 10, 13, 17, 23)]),
        "optimum, distribution known, blind": (
            "#2a7",
            [scheduled(looks, ends) for _, _, looks in optimum_for(case, 24)],
        ),
    }
    for mode, colour, label in (
        ("none", "#26c", "default, no numbers"),
        ("extension", "#c62", "default, rough numbers"),
        ("smooth", "#a2a", "default, smooth numbers"),
    ):
        points = []
        for interval in (3.5, 5, 7, 10):
            seen = []
            for _ in range(max(1, jobs // 60)):
                experience = Experience()
                for place, job in enumerate(stream(case, mode, 60, dice)):
                    lived = live(Polling(interval=interval), job, experience, dice)
                    if place >= 20:
                        seen.append(lived)
            points.append((mean(x[0] for x in seen), mean(x[1] for x in seen)))
        curves[label] = (colour, points)
    width, height, left, top, most_polls, most_lag = 640, 400, 56, 20, 14.0, 8.0

    def place(lag: float, polls: float) -> str:
        x = left + polls / most_polls * (width - left - 20)
        return f"{x:.1f},{top + (1 - lag / most_lag) * (height - top - 50):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<polyline points="{place(most_lag, 0)} {place(0, 0)} {place(0, most_polls)}" '
        'fill="none" stroke="black"/>',
    ]
    for value in range(2, 14, 2):
        x, y = place(0, value).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{value}</text>')
    for value in range(1, 9):
        x, y = place(value, 0).split(",")
        parts.append(
            f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end">{value}</text>'
        )
    parts.append(f'<text x="{width / 2}" y="{height - 12}">polls per job</text>')
    parts.append(
        f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})">lag, s</text>'
    )
    for number, (label, (colour, points)) in enumerate(curves.items()):
        inside = [p for p in points if p[0] <= most_lag and p[1] <= most_polls]
        line = " ".join(place(*point) for point in inside)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in inside if label.startswith("default") else []:
            x, y = place(*point).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        parts.append(
            f'<text x="{width - 270}" y="{top + 16 + 17 * number}" fill="{colour}">{label}</text>'
        )
    for label, (lag, polls) in rivals(ends, dice).items():
        x, y = place(lag, polls).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="black"/>')
        parts.append(f'<text x="{float(x) + 6}" y="{float(y) - 5}">{label}</text>')
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")

"""Each benchmark still runs: once and tiny; its figures are for `nox -s bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_gives_figures(name: str) -> None:
    code = f"import json; from benchmarks import {name}; print(json.dumps({name}.run(True)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])


def test_there_are_benchmarks() -> None:
    assert {"jobs", "polling", "upload", "download", "ledger", "batch"} <= set(NAMES)

"""Each benchmark still runs: once and tiny; its figures are for `nox -s bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import polling
from benchmarks._bars import at_least, at_most, below, paired, spread, unmeasured

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
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["question"]
    assert command.figures(result)
    assert all(bar.keys() >= {"name", "value", "limit", "held"} for bar in result.get("bars", []))
    assert command.told(name, result)
    assert command.verdicts({name: result})


def test_there_are_benchmarks() -> None:
    assert {"jobs", "polling", "upload", "download", "ledger", "batch"} <= set(NAMES)
    assert {"blocking", "imports", "peers", "peers_upload"} <= set(NAMES)


def test_every_verdict_of_polling_can_be_a_miss() -> None:
    result = polling.run(tiny=True)
    assert {"cases", "recorded", "fan_out", "microseconds", "verdicts"} <= result.keys()
    assert polling.table(result)
    # A check that can be fooled is worse than none: every figure made bad is reported as a miss.
    for row in [*result["cases"], result["recorded"]]:
        for of in row["modes"].values():
            for figure in of.values():
                figure["median"] = 9.0
    for row in result["fan_out"]:
        row["to alone"]["median"] = 9.0
    verdicts = polling.judge(result)
    assert len(verdicts) == len(result["verdicts"]) > 45
    assert not [one for one in verdicts if one["holds"]]


def test_a_bar_says_whether_it_is_held() -> None:
    figure = spread([1.0, 3.0, 2.0])
    assert figure == {"median": 2.0, "min": 1.0, "max": 3.0, "runs": 3}
    assert at_most("x", figure, 2.0)["held"]
    assert not below("x", figure, 2.0)["held"]
    assert at_least("x", 2.0, 2.0)["held"]
    assert unmeasured("x", 1.0, "no peer is installed")["held"] is None
    assert paired([2.0, 9.0, 4.0], [1.0, 3.0, 2.0])["median"] == 2.0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run the command with figures that are given, as if they had been measured."""

    def run(crossing: float, *words: str) -> int:
        bar = at_most("one crossing, us", {"median": crossing, "min": 1.0, "max": 999.0}, 120.0)
        result = {"question": "cost", "crossing_us": {"median": crossing}, "steady": 7.0}
        found = {"blocking": result | {"bars": [bar], "took_s": 3, "missing": ["xai-sdk"]}}
        monkeypatch.setattr(command, "measure", lambda names, tiny: iter(found.items()))
        return command.main([*words, "--folder", str(tmp_path / "kept")])

    return run


def test_a_saved_run_can_be_compared_with(runs, tmp_path: Path, capsys) -> None:
    assert runs(100.0, "--save", "before") == 0
    assert json.loads((tmp_path / "kept" / "before.json").read_text())["blocking"]["steady"] == 7.0
    capsys.readouterr()
    assert runs(150.0, "--compare", "before") == 0
    shown = capsys.readouterr().out
    assert "1.50x  blocking.crossing_us.median: 100 -> 150" in shown
    assert "blocking.steady" not in shown
    assert (tmp_path / "kept" / "last.txt").read_text() == shown


def test_the_table_says_what_is_held_and_what_is_missing(runs, capsys) -> None:
    runs(100.0)
    held = capsys.readouterr().out
    assert "not installed, not measured: xai-sdk" in held
    (line,) = (one for one in held.splitlines() if "blocking: one crossing" in one)
    assert line.split()[-2:] == ["yes", "1..999"]
    assert runs(150.0) == 0  # a miss is for a person to judge
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "one crossing, us" in one)
    assert line.split()[-2:] == ["NO", "1..999"]


def test_a_run_that_was_never_saved_is_missed_before_anything_is_measured(runs) -> None:
    with pytest.raises(FileNotFoundError):
        runs(100.0, "--compare", "never")

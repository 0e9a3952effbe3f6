"""`grok-video batch --dry-run`: what it foretells is what the same command then sends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from grok_video._cli import main
from grok_video.emulator import Emulator, faults
from tests.processes.command import PHOTO, environment, run

from .conftest import QUICK, items, lines, states, write

#: Of a second of 480p with a picture and without one, by the list of the default model.
WITH, WITHOUT = 0.09, 0.08


def foretold(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """Return what --dry-run says of a command, which it says without a key."""
    assert main([*words, "--dry-run", "--json"]) == code
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == code
    return told


def test_nothing_is_sent_and_nothing_is_left_behind_and_no_key_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMETAPI_KEY", raising=False)
    manifest = write(tmp_path / "m.csv", items(3, image=str(PHOTO)))
    before = sorted(tmp_path.iterdir())
    assert main(["batch", str(manifest), "-o", str(tmp_path / "out"), "--dry-run", *QUICK]) == 0
    assert capsys.readouterr().out == (
        "3 of 3 items would be sent, for up to 0.27 USD by the provider's list. Nothing was sent.\n"
    )
    assert sorted(tmp_path.iterdir()) == before


def test_what_it_foretells_is_what_the_command_sends(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after runs that failed, were refused, or left a create in doubt."""
    env = environment(grok_emulator)
    few, all_of_them = tmp_path / "few.jsonl", tmp_path / "all.jsonl"
    rows = items(4) + [{"key": f"p{n}", "prompt": "drift", "image": str(PHOTO)} for n in range(2)]
    write(few, rows[:4])
    write(all_of_them, rows)
    options = ("-o", str(tmp_path / "out"), *QUICK, "--max-in-flight", "1")
    grok_emulator.script(
        "create", [faults.Failed(), faults.Moderated("job"), faults.CutAnswer(0), faults.Pass()]
    )
    run("batch", str(few), *options, env=env)
    ledger = tmp_path / "out/grok-video.sqlite"
    assert states(ledger) == {"failed": 2, "in_doubt": 1, "saved": 1}

    for more, sent, price in (
        ((), 2, 2 * WITH),
        (("--retry-failed",), 3, 2 * WITH + WITHOUT),
        (("--resubmit-in-doubt",), 3, 2 * WITH + WITHOUT),
        (("--retry-failed", "--resubmit-in-doubt"), 4, 2 * WITH + 2 * WITHOUT),
        (("--found-id", "k002=perhaps-1", "--resubmit-in-doubt"), 2, 2 * WITH),
    ):
        told = foretold(capsys, "batch", str(all_of_them), *options, *more)
        assert told["items"] == 6
        assert told["would_send"] == sent
        assert told["estimate_usd"] == pytest.approx(price)
        assert told["begun_earlier"] == 6 - sent
        assert told["spent_usd"] > 0
    assert states(ledger) == {"failed": 2, "in_doubt": 1, "saved": 1}

    before = grok_emulator.accepted
    more = ("--retry-failed", "--resubmit-in-doubt")
    run("batch", str(all_of_them), *options, *more, env=env)
    assert grok_emulator.accepted - before == 4


def test_a_ceiling_leaves_out_what_the_command_leaves(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write(tmp_path / "m.jsonl", items(5))
    words = ("batch", str(manifest), "-o", str(tmp_path / "out"), *QUICK)
    told = foretold(capsys, *words, "--max-cost", "0.25")
    assert (told["would_send"], told["left"]) == (3, 2)
    assert told["estimate_usd"] == pytest.approx(3 * WITHOUT)
    done = run(*words, "--max-cost", "0.25", "--json", env=environment(grok_emulator))
    _, last = lines(done.stdout)
    counts = last["summary"]["counts"]
    assert {state: count for state, count in counts.items() if count} == {"saved": 3, "left": 2}
    # What was spent by then counts, and nothing more fits.
    told = foretold(capsys, *words, "--max-cost", "0.25")
    assert (told["would_send"], told["begun_earlier"], told["left"]) == (0, 3, 2)
    assert main([*words, "--max-cost", "0.25", "--dry-run"]) == 0
    assert "2 may not fit under 0.25 USD" in capsys.readouterr().out


def test_a_picture_that_would_be_refused_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real run finds it out when its turn comes, and goes on with the others."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shutil.copy(PHOTO, pictures / "a.jpg")
    (pictures / "b.jpg").write_text("a page, saved as a picture")
    words = ["batch", str(pictures), "--prompt", "drift", "-o", str(tmp_path / "out"), *QUICK]
    told = foretold(capsys, *words, code=1)
    assert (told["items"], told["would_send"]) == (2, 1)
    [bad] = told["unusable"]
    assert bad["key"] == "b"
    assert "JPEG, PNG or WebP" in bad["reason"]
    assert main([*words, "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert "1 have a picture that cannot be used. Nothing was sent." in out
    assert err.startswith("grok-video: b: ")


def test_what_the_command_would_refuse_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write(tmp_path / "m.jsonl", items(2))
    words = ["batch", str(manifest), "-o", str(tmp_path / "out"), "--dry-run"]
    assert main([*words, "--max-in-flight", "0"]) == 2
    assert "--max-in-flight must be a whole number, 1 or more" in capsys.readouterr().err
    assert main([*words, "--max-cost", "-1"]) == 2
    assert main([*words, "--duration", "99"]) == 2
    assert "m.jsonl:1: duration must be" in capsys.readouterr().err

"""`grok-video batch --dry-run`: what it foretells is what the same command then sends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grok_video._cli import main
from grok_video.emulator import Emulator, faults
from tests.disks import mounted
from tests.processes.command import PHOTO, environment, run
from tests.pure.test_report import Item, ledger_of

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


@pytest.mark.parametrize("mark", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize(
    "before",
    ["", "\n", "\r\n \r\n", "MARKMARK\n"],
    ids=["none", "an empty line", "lines of spaces", "empty cells"],
)
def test_the_mark_between_the_cells_of_a_table_is_that_of_its_first_line_with_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, mark: str
) -> None:
    manifest = tmp_path / "m.csv"
    text = f"{before}key,prompt,duration\na,drift,3\n".replace("MARK", ",").replace(",", mark)
    manifest.write_text(text, newline="")
    told = foretold(capsys, "batch", str(manifest), "-o", str(tmp_path / "out"), *QUICK)
    assert told["would_send"] == 1


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


def test_what_a_ceiling_leaves_out_is_foretold_by_the_list_and_may_be_sent_for_less(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """What fails costs nothing, and makes room for others."""
    rows = items(5)
    rows[0]["prompt"] = "drift [failed]"
    manifest = write(tmp_path / "m.jsonl", rows)
    words = ["batch", str(manifest), "-o", str(tmp_path / "out"), *QUICK, "--max-cost", "0.25"]
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "at least 3 of 5 items would be sent, for 0.24 USD by the provider's list; 2 may not fit "
        "under 0.25 USD, and are sent if others cost less than that. Nothing was sent.\n"
    )
    words += ["--max-in-flight", "1"]
    assert run(*words, env=environment(grok_emulator)).returncode == 1
    assert grok_emulator.accepted == 4


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
    assert "1 would be refused, each for its own reason. Nothing was sent." in out
    assert err.startswith("grok-video: b: ")


def test_what_the_command_would_refuse_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write(tmp_path / "m.jsonl", items(2))
    words = ["batch", str(manifest), "-o", str(tmp_path / "out"), "--dry-run"]
    assert main([*words, "--max-in-flight", "0"]) == 2
    assert "--max-in-flight must be a whole number, 1 or more" in capsys.readouterr().err
    assert main([*words, "--max-cost", "-1"]) == 2
    assert main([*words, "--poll-interval", "0"]) == 2
    assert "--poll-interval must be a number of seconds above 0" in capsys.readouterr().err
    assert main([*words, "--base-url", "api.host/v1"]) == 2
    assert "--base-url must" in capsys.readouterr().err
    assert main([*words, "--duration", "99"]) == 2
    assert "m.jsonl:1: duration must be" in capsys.readouterr().err


def test_what_fits_behind_what_does_not_is_counted(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{"resolution": "480p", "duration": 1, **one} for one in items(5)]
    rows[1] |= {"resolution": "1080p", "duration": 15}
    manifest = write(tmp_path / "m.jsonl", rows)
    words = ("batch", str(manifest), "-o", str(tmp_path / "out"), "--poll-interval", "0.05")
    told = foretold(capsys, *words, "--max-cost", "1")
    assert (told["would_send"], told["left"]) == (4, 1)
    assert run(*words, "--max-cost", "1", env=environment(grok_emulator)).returncode == 1
    assert grok_emulator.accepted == 4


def test_a_ceiling_is_met_to_the_cent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the ledger counts: a hundred prices in binary fractions are a little off."""
    out = tmp_path / "out"
    out.mkdir()
    saved = [Item(f"k{n:03}", cost_usd=Decimal("0.14")) for n in range(21)]
    ledger_of(out / "grok-video.sqlite", saved)
    manifest = write(tmp_path / "m.jsonl", items(23))
    words = ("batch", str(manifest), "-o", str(out), "--duration", "1", "--max-cost", "3.08")
    told = foretold(capsys, *words)
    assert (told["would_send"], told["left"], told["spent_usd"]) == (1, 1, 2.94)


@pytest.fixture
def finished(tmp_path: Path, grok_emulator: Emulator) -> Path:
    """The folder of a batch of two that came to its end; its manifest lies beside it."""
    manifest, out = write(tmp_path / "m.jsonl", items(2)), tmp_path / "out"
    done = run("batch", str(manifest), "-o", str(out), *QUICK, env=environment(grok_emulator))
    assert done.returncode == 0
    return out


def _age(ledger: Path) -> None:
    with contextlib.closing(sqlite3.connect(ledger)) as file:
        file.execute("PRAGMA user_version = 99")


def _tear_off(ledger: Path) -> None:
    with contextlib.closing(sqlite3.connect(ledger)) as file, file:
        file.execute("UPDATE run SET ended_at = NULL")


def _lose(ledger: Path) -> None:
    ledger.with_name(ledger.name + "-wal").write_bytes(b"what the last run wrote")
    ledger.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_age, "was written by a newer grok_video"),
        (_tear_off, "the ledger was copied or moved alone"),
        (_lose, "the ledger was moved or removed alone"),
        (lambda ledger: ledger.write_bytes(b""), "it is empty"),
        (lambda ledger: ledger.write_bytes(b"key,prompt\n"), "it is not a ledger"),
        (lambda ledger: ledger.write_bytes(ledger.read_bytes()[:5000]), "it is damaged"),
    ],
)
def test_a_ledger_that_the_command_refuses_is_refused_in_the_same_words(
    finished: Path, change: Callable[[Path], Any], said: str, grok_emulator: Emulator
) -> None:
    """Taken for one that knows nothing, it would foretell that all is sent again."""
    change(finished / "grok-video.sqlite")
    before = sorted(finished.iterdir())
    words = ("batch", str(finished.parent / "m.jsonl"), "-o", str(finished), *QUICK)
    foretold = run(*words, "--dry-run", env=environment())
    assert sorted(finished.iterdir()) == before
    done = run(*words, env=environment(grok_emulator))
    assert (foretold.returncode, foretold.stderr) == (done.returncode, done.stderr)
    assert foretold.returncode == 2
    assert said in foretold.stderr
    assert grok_emulator.accepted == 2


def test_a_ledger_is_read_with_its_log_by_whatever_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a killed run wrote last is in the log beside the file, not beside a link to it."""
    out = tmp_path / "out"
    out.mkdir()
    ledger = out / "grok-video.sqlite"
    batch = ledger_of(ledger, [Item(f"k{n:03}") for n in range(3)], close=False)
    with contextlib.closing(batch):
        link = tmp_path / "link.sqlite"
        link.symlink_to(ledger)
        manifest = write(tmp_path / "m.jsonl", items(5))
        words = ("batch", str(manifest), "-o", str(out), "--ledger", str(link), *QUICK)
        told = foretold(capsys, *words)
        assert (told["would_send"], told["begun_earlier"]) == (2, 3)
        page = tmp_path / "page.html"
        assert main(["report", str(link), "-o", str(page), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["items"] == 3


def test_places_that_are_taken_and_folders_that_cannot_be_are_foretold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], grok_emulator: Emulator
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "k001.mp4").write_bytes(b"mine")
    words = ("batch", str(write(tmp_path / "m.jsonl", items(3))), *QUICK)
    told = foretold(capsys, *words, "-o", str(out), code=1)
    assert (told["would_send"], [one["key"] for one in told["unusable"]]) == (2, ["k001"])
    assert foretold(capsys, *words, "-o", str(out), "--overwrite")["would_send"] == 3
    assert run(*words, "-o", str(out), env=environment(grok_emulator)).returncode == 1
    assert grok_emulator.accepted == 2

    assert main([*words, "-o", str(out / "k001.mp4" / "deeper"), "--dry-run"]) == 2
    assert "k001.mp4 is no folder. Nothing was sent." in capsys.readouterr().err
    assert main([*words, "-o", str(out), "--ledger", "/nowhere/l.sqlite", "--dry-run"]) == 2
    assert "its folder does not exist" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_for_want_of_rights_is_foretold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMETAPI_KEY", "k")
    with contextlib.ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        place.chmod(0o755)
        manifest, folder = write(place / "m.csv", items(1)), place / "folder"
        if not undo.enter_context(mounted(folder, "size=1m,ro")):
            folder.chmod(0o555)
            undo.callback(folder.chmod, 0o755)
            if os.geteuid() == 0:  # whom modes do not stop; another may not import from here
                for more in (["--dry-run"], []):
                    assert main(["batch", str(manifest), "-o", str(manifest / "out"), *more]) == 2
                capsys.readouterr()
                os.seteuid(65534)
                undo.callback(os.seteuid, 0)
        words = ["batch", str(manifest), "-o", str(folder / "new" / "out")]
        assert main([*words, "--dry-run"]) == main(words) == 2
        foretold, told = capsys.readouterr().err.splitlines()
        for line in (foretold, told):
            assert f"the folder {folder / 'new' / 'out'} cannot be made: " in line
            assert line.endswith("Nothing was sent.")


def test_an_id_for_an_item_that_is_not_in_doubt_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["batch", str(finished.parent / "m.jsonl"), "-o", str(finished), *QUICK]
    assert main([*words, "--found-id", "k000=abc", "--dry-run"]) == 2
    assert "must be for items in doubt, and 'k000' is saved" in capsys.readouterr().err

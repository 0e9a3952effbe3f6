"""What goes wrong on the way of `grok-video batch` or ends it, and the commands that it names."""

from __future__ import annotations

import re
import shlex
import sqlite3
from pathlib import Path

import pytest

from grok_video._cli import main
from grok_video.emulator import Emulator, faults
from tests.processes.command import (
    PHOTO,
    environment,
    run,
    run_line,
)

from .conftest import QUICK, items, lines, states, write


def broken_batch(folder: Path) -> Path:
    """Forty items, one in ten broken in its own way."""
    (folder / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8")
    rows = items(40, image="photo.jpg")
    rows[4]["image"] = "cut.jpg"
    rows[14]["image"] = "text.jpg"
    rows[24]["prompt"] = "drift [moderated]"
    rows[34]["prompt"] = "drift [expired]"
    return write(folder / "m.csv", rows)


BROKEN = {
    "k004": ("failed", "InvalidRequest", "must be a JPEG, PNG or WebP by its bytes"),
    "k014": ("failed", "InvalidRequest", "must be a JPEG, PNG or WebP by its bytes"),
    "k024": ("failed", "ModerationRefused", "refused by content moderation"),
    "k034": ("expired", "JobExpired", "has expired at the provider"),
}


def test_one_item_in_ten_broken_leaves_the_other_nine(
    tmp_path: Path, beside: dict[str, str]
) -> None:
    manifest, out = broken_batch(tmp_path), tmp_path / "out"
    done = run("batch", str(manifest), "-o", str(out), *QUICK, "--json", env=beside)
    outcomes, last = lines(done.stdout)
    assert done.returncode == last["exit_code"] == 1
    assert len(outcomes) == 40
    for key, (state, error, reason) in BROKEN.items():
        assert (outcomes[key]["state"], outcomes[key]["error"]) == (state, error)
        assert reason in outcomes[key]["reason"]
    saved = {key for key, outcome in outcomes.items() if outcome["state"] == "saved"}
    assert saved == set(outcomes) - set(BROKEN)
    assert all(Path(outcomes[key]["path"]).stat().st_size == outcomes[key]["size"] for key in saved)
    with sqlite3.connect(out / "grok-video.sqlite") as file:
        rows = file.execute("SELECT key, state, error_type, error FROM item WHERE state != 'saved'")
        noted = {key: (state, kind, reason) for key, state, kind, reason in rows}
    file.close()
    assert set(noted) == set(BROKEN)
    for key, (state, error, reason) in BROKEN.items():
        assert noted[key][:2] == (state, error)
        assert reason in noted[key][2]
    page = out / "report.html"
    assert (
        run("report", str(out / "grok-video.sqlite"), "-o", str(page), env=beside).returncode == 0
    )
    text = page.read_text()
    assert all(reason in text for _, _, reason in BROKEN.values())

    # Mended, and said so: only what failed is tried again.
    (tmp_path / "cut.jpg").write_bytes(PHOTO.read_bytes())
    again = run("batch", str(manifest), "-o", str(out), *QUICK, env=beside)
    assert again.returncode == 1
    [retry] = [line for line in again.stderr.splitlines() if "To try them again: " in line]
    done = run_line(retry.partition("To try them again: ")[2], env=beside)
    assert done.stdout == f"{out / 'k004.mp4'}\n"
    assert states(out / "grok-video.sqlite") == {"saved": 37, "failed": 2, "expired": 1}


def test_links_that_died_are_told_and_fetched_by_the_same_command(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("download", [faults.LinkDied()] * 5)
    manifest = write(tmp_path / "m.csv", items(1))
    words = ("batch", str(manifest), "-o", str(tmp_path / "out"), *QUICK)
    done = run(*words, env=environment(grok_emulator))
    assert done.returncode == 1
    assert "k000: unfetched: " in done.stderr
    assert "the link is dead (HTTP 403), and so were the fresh ones" in done.stderr
    ledger, page = tmp_path / "out" / "grok-video.sqlite", tmp_path / "report.html"
    assert main(["report", str(ledger), "-o", str(page)]) == 0
    assert "the link is dead (HTTP 403)" in page.read_text()
    [way] = [line for line in done.stderr.splitlines() if "To fetch: " in line]
    assert run_line(way.partition("To fetch: ")[2], environment(grok_emulator)).returncode == 0
    assert (tmp_path / "out" / "k000.mp4").exists()
    assert grok_emulator.accepted == 1


def test_what_is_in_doubt_is_named_with_the_commands_that_act_on_it(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.Pass(), faults.CutRequest(accepted=True)])
    manifest, out = write(tmp_path / "m.csv", items(3)), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK, "--max-in-flight", "1")
    done = run(*words, env=env)
    assert done.returncode == 3, done.stderr
    [told] = [line for line in done.stderr.splitlines() if "in doubt, perhaps" in line]
    assert "billed: k001. Look" in told
    assert re.search(r"k001: in doubt: .* Sent at 20\S+Z, fingerprint [0-9a-f]{64}", done.stderr)
    before = grok_emulator.accepted
    assert run(*words, env=env).returncode == 3
    assert grok_emulator.accepted == before == 3, "nothing is sent again by itself"

    # The account's usage names the job: it is fetched, and nothing is paid for.
    found = grok_emulator.creates[1].request_id
    way = told.partition("With an id from there: ")[2].partition(". To send them again")[0]
    mended = run_line(way.replace("KEY=REQUEST_ID", f"k001={found}"), env)
    assert (mended.returncode, mended.stdout) == (0, f"{out / 'k001.mp4'}\n")
    assert grok_emulator.accepted == 3


def test_an_id_with_equals_signs_is_found_for_the_key_that_the_manifest_has(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids are opaque, and so are keys: which sign divides them, the manifest knows."""
    grok_emulator.script("create", [faults.CutAnswer(0), faults.CutAnswer(0)])
    rows = [{"key": key, "prompt": "drift"} for key in ("a", "b=2")]
    manifest, out = write(tmp_path / "m.csv", rows), tmp_path / "out"
    env = environment(grok_emulator)
    words = ["batch", str(manifest), "-o", str(out), *QUICK]
    assert run(*words, env=env).returncode == 3
    found = {"a": "abc==", "b=2": "=x=1"}
    pairs = [word for key, one in found.items() for word in ("--found-id", f"{key}={one}")]
    grok_emulator.script("poll", [faults.Answer(200, {"status": "failed"})] * 2)
    outcomes, _ = lines(run(*words, *pairs, "--json", env=env).stdout)
    assert {key: one["request_id"] for key, one in outcomes.items()} == found
    assert grok_emulator.accepted == 2

    for pair, said in (
        ("c=abc==", "--found-id must name a key of"),
        ("a=", "--found-id must be KEY=REQUEST_ID"),
        ("=abc", "--found-id must be KEY=REQUEST_ID"),
    ):
        assert main([*words, "--found-id", pair]) == 2
        assert said in capsys.readouterr().err


def test_in_doubt_items_are_sent_again_only_when_a_person_says_so(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    grok_emulator.script("create", [faults.CutRequest()])
    manifest, out = write(tmp_path / "m.csv", items(1)), tmp_path / "out"
    env = environment(grok_emulator)
    done = run("batch", str(manifest), "-o", str(out), *QUICK, env=env)
    assert done.returncode == 3
    assert grok_emulator.accepted == 0
    way = done.stderr.partition("perhaps pay twice: ")[2].splitlines()[0]
    assert shlex.split(way)[-1] == "--resubmit-in-doubt"
    assert run_line(way, env).returncode == 0
    assert grok_emulator.accepted == 1


def test_the_ceiling_holds_and_what_is_left_is_said(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    # One second of 480p costs 0.08 USD by the list, without a picture.
    manifest, out = write(tmp_path / "m.csv", items(30)), tmp_path / "out"
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    done = run(*words, "--max-cost", "0.81", "--json", env=env)
    outcomes, last = lines(done.stdout)
    assert done.returncode == 1
    assert grok_emulator.accepted == 10
    assert float(grok_emulator.bill) <= 0.81
    left = {key for key, outcome in outcomes.items() if outcome["state"] == "left"}
    assert len(left) == 20
    assert set(last["summary"]["left"]) == left
    assert set((out / "grok-video.sqlite.left.txt").read_text().split()) == left
    assert "--max-cost (0.81 USD)" in last["summary"]["stopped"]
    assert "--max-cost MORE" in last["resume"]
    assert "0.81" not in last["resume"]
    told = run(*words, "--max-cost", "0.81", env=env).stderr
    assert all(key in told for key in left)
    assert run(*words, env=env).returncode == 0
    assert not (out / "grok-video.sqlite.left.txt").exists()
    assert grok_emulator.accepted == 30


def test_a_command_to_go_on_is_named_only_where_it_can_change_something(
    tmp_path: Path, beside: dict[str, str]
) -> None:
    rows = items(3)
    rows[1]["prompt"] = "drift [failed]"
    manifest, out = write(tmp_path / "m.csv", rows), tmp_path / "out"
    words = ("batch", str(manifest), "-o", str(out), *QUICK, "--json")
    for kind in ("JobFailed", "JobFailed"):  # told in the same words by the second run
        outcomes, last = lines(run(*words, env=beside).stdout)
        assert outcomes["k001"]["error"] == kind
        assert (last["exit_code"], last["resume"], last["overwrite"]) == (1, None, None)
        assert shlex.split(last["retry_failed"])[-1] == "--retry-failed"

    # Something else is in the place of a file that is paid for.
    rows[1]["prompt"] = "drift"
    write(tmp_path / "m.csv", rows)
    assert run_line(last["retry_failed"], beside).returncode == 0
    (out / "k000.mp4").write_bytes(b"mine")
    done = run(*words[:-1], env=beside)
    assert done.returncode == 1
    assert "To fetch: " not in done.stderr
    assert "not here because something else is in their place: 1 " in done.stderr
    _, last = lines(run(*words, env=beside).stdout)
    assert (last["resume"], last["retry_failed"]) == (None, None)
    assert run_line(last["overwrite"], beside).returncode == 0
    assert (out / "k000.mp4").stat().st_size > 4


def test_a_file_in_the_place_of_an_unsent_video_is_replaced_by_overwrite_alone(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    """Nothing that failed on its own is paid for once more on that occasion."""
    rows = items(3)
    rows[2]["prompt"] = "drift [failed]"
    manifest, out = write(tmp_path / "m.csv", rows), tmp_path / "out"
    out.mkdir()
    (out / "k000.mp4").write_bytes(b"mine")
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    for _ in range(2):
        done = run(*words, env=env)
        assert done.returncode == 1
        assert "k000: left: " in done.stderr
        assert "pass --overwrite to replace it" in done.stderr
        assert "not sent: k000 (all of them in " in done.stderr
        assert "To send them: " not in done.stderr
        assert "something else is in the place of their videos: 1 (each says what)" in done.stderr
        assert "1 failed or expired. To try them again: " in done.stderr
    assert grok_emulator.accepted == 2
    outcomes, last = lines(run(*words, "--json", env=env).stdout)
    assert (outcomes["k000"]["state"], outcomes["k000"]["error"]) == ("left", "DestinationError")
    assert (last["resume"], last["exit_code"]) == (None, 1)
    assert (out / "k000.mp4").read_bytes() == b"mine"

    assert shlex.split(last["overwrite"])[-1] == "--overwrite"
    done = run_line(last["overwrite"], env)
    assert done.stdout == f"{out / 'k000.mp4'}\n"
    assert grok_emulator.accepted == 3
    assert (out / "k000.mp4").stat().st_size > 4


def test_a_file_that_was_moved_away_lets_the_same_command_send_its_item(
    tmp_path: Path, grok_emulator: Emulator
) -> None:
    manifest, out = write(tmp_path / "m.csv", items(2)), tmp_path / "out"
    out.mkdir()
    (out / "k000.mp4").write_bytes(b"mine")
    env = environment(grok_emulator)
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    _, last = lines(run(*words, "--max-cost", "0.01", "--json", env=env).stdout)
    assert last["resume"] is not None, "the other one is left for its price"
    assert run(*words, env=env).returncode == 1
    (out / "k000.mp4").unlink()
    assert run(*words, env=env).returncode == 0
    assert grok_emulator.accepted == 2


def test_changed_lines_are_named(tmp_path: Path, beside: dict[str, str]) -> None:
    manifest, out = write(tmp_path / "m.csv", items(3)), tmp_path / "out"
    words = ("batch", str(manifest), "-o", str(out), *QUICK)
    assert run(*words, env=beside).returncode == 0
    rows = items(3)
    rows[0]["prompt"] = rows[2]["prompt"] = "something else"
    write(manifest, rows)
    done = run(*words, env=beside)
    assert done.returncode == 0
    assert "(a new key makes a new video): k000, k002" in done.stderr
    outcomes, last = lines(run(*words, "--json", env=beside).stdout)
    assert [key for key, one in outcomes.items() if one["changed"]] == ["k000", "k002"]
    assert last["summary"]["changed"] == ["k000", "k002"]

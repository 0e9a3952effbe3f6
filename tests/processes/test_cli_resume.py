"""The command that resumes is one that works: real child processes, answers out of a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grok_video._cli import main
from grok_video.emulator import Emulator, faults
from tests.processes.command import environment, run, run_line

UPLOAD = ("--upload-url", "https://bucket.example/x.mp4")
#: What the provider says of a video that it has put elsewhere.
DELIVERED = faults.Answer(
    200,
    {
        "status": "done",
        "video": {"url": None, "duration": 8, "respect_moderation": True},
        "usage": {"cost_in_usd_ticks": 11_200_000_000},
    },
)


def test_a_wait_for_a_video_that_is_delivered_elsewhere_is_resumed_to_its_end() -> None:
    with Emulator(time_scale=1.0) as emulator:
        env = environment(emulator)
        words = ("generate", "drift", *UPLOAD, "--timeout", "0.4", "--poll-interval", "0.1")
        late = run(*words, "--json", env=env)
        error = json.loads(late.stdout)
        request_id = emulator.creates[0].request_id
        assert (late.returncode, error["resume"]) == (4, f"grok-video wait {request_id} --uploaded")
        assert "client.job" not in error["message"]

        emulator.script("poll", [DELIVERED] * 2)
        done = run_line(error["resume"], env)
        assert (done.returncode, done.stdout) == (0, f"delivered {request_id}\n"), done.stderr
        told = run("status", request_id, "--uploaded", env=env)
        assert (told.returncode, told.stdout) == (0, f"{request_id} done\n")


def test_submit_says_how_to_wait_for_what_is_delivered_elsewhere(grok_emulator: Emulator) -> None:
    done = run("submit", "drift", *UPLOAD, env=environment(grok_emulator))
    request_id = grok_emulator.creates[0].request_id
    assert (done.returncode, done.stdout) == (0, f"{request_id}\n")
    assert f"grok-video wait {request_id} --uploaded\n" in done.stderr


def test_a_video_that_may_be_elsewhere_is_not_advised_to_be_paid_again(
    grok_emulator: Emulator,
) -> None:
    env = environment(grok_emulator)
    request_id = run("submit", "drift", *UPLOAD, env=env).stdout.strip()
    grok_emulator.script("poll", [DELIVERED])
    done = run("wait", request_id, env=env)
    assert done.returncode == 1
    assert "the video was delivered there" in done.stderr
    assert "pass --uploaded" in done.stderr
    assert "may be billed as any video" in done.stderr
    assert "costs again" not in done.stderr


def test_what_is_delivered_elsewhere_is_saved_nowhere(
    tmp_path: Path, grok_emulator: Emulator, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COMETAPI_KEY", grok_emulator.api_key)
    monkeypatch.setenv("GROK_VIDEO_BASE_URL", grok_emulator.base_url)
    assert main(["wait", "an-id", "--uploaded", "-o", str(tmp_path / "o.mp4")]) == 2
    assert "-o and --uploaded exclude each other" in capsys.readouterr().err
    assert grok_emulator.requests == ()


def test_an_id_that_looks_like_an_option_is_resumed_as_any_other(tmp_path: Path) -> None:
    odd = faults.Answer(200, {"request_id": "-x1"}, accepted=True)
    with Emulator(time_scale=1.0) as emulator:
        env = environment(emulator)
        emulator.script("create", [odd])
        emulator.script("poll", [faults.Answer(200, {"status": "processing"})] * 20)
        words = ("generate", "drift", "--timeout", "0.4", "--poll-interval", "0.3", "--json")
        error = json.loads(run(*words, "-o", str(tmp_path / "o.mp4"), env=env).stdout)
        assert error["resume"] == f"grok-video wait -o {tmp_path / 'o.mp4'} -- -x1"
        # Whatever the API says of it now, it is asked about it.
        asked = emulator.polls
        done = run_line(error["resume"].replace(" -- ", " --timeout 0.4 -- "), env)
        assert (done.returncode, emulator.polls > asked) == (4, True), done.stderr

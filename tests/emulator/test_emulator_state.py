"""What outlives an emulator: with a state file everything, without one nothing."""

import contextlib
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from grok_video.emulator import Emulator, faults
from grok_video.emulator.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program():
    """Starts the emulator as a program and gives a stand-in for `Emulator` with its address."""
    running = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "grok_video.emulator", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        line = json.loads(process.stdout.readline())
        return SimpleNamespace(process=process, **line)

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def caller(emulator):
    from wire_caller import Caller

    return Caller(emulator)


def control(one, name="", body=None):
    path = "/_emulator" + (f"/{name}" if name else "")
    raw = None if body is None else json.dumps(body).encode()
    return one.call("GET" if body is None else "POST", path, raw, one.key)


def test_jobs_links_and_the_bill_survive_a_kill(program, tmp_path, tiny_clip):
    (tmp_path / "clip.mp4").write_bytes(tiny_clip)
    arguments = ("--state", str(tmp_path / "state"), "--clip", str(tmp_path / "clip.mp4"))
    arguments += ("--time-scale", "0.0001")
    first = program(*arguments)
    before = caller(first)
    request_ids = [before.submit() for _ in range(20)]
    url = before.url(request_ids[3])
    first.process.kill()
    first.process.wait()

    second = program(*arguments)
    assert (second.base_url, second.api_key) == (first.base_url, first.api_key)
    after = caller(second)
    assert after.download(url).body == tiny_clip
    for request_id in request_ids:
        assert after.ended(request_id).json["status"] == "done"
    report = control(after).json
    assert report["accepted"] == 20
    assert report["bill"] == "1.60"
    assert [one["request_id"] for one in report["creates"]] == request_ids
    after.create()
    assert control(after).json["accepted"] == 21


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_program_ends_cleanly_when_told_to(program, number, code):
    process = program().process
    process.send_signal(number)
    assert process.wait(10) == code


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--time-scale", "-1"], "time_scale must"),
        (["--port", "70000"], "port must"),
        (["--clip", "nowhere.mp4"], "nowhere.mp4 is no file"),
        (["--state", "nowhere/state"], "unable to open database file"),
        (["--state", "letter"], "file is not a database"),
    ],
    ids=lambda one: one if isinstance(one, str) else one[0],
)
def test_the_program_refuses_in_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letter").write_text("Dear reader, " * 100)
    assert main(arguments) == 2
    heard = capsys.readouterr()
    assert (heard.out, heard.err.count("\n")) == ("", 1)
    assert told in heard.err


def test_the_program_says_that_its_port_is_taken(capsys):
    with Emulator() as emulator:
        port = emulator.origin.rpartition(":")[2]
        assert main(["--port", port]) == 2
    assert "already in use" in capsys.readouterr().err


def test_a_picture_and_a_fate_survive_too(tmp_path, picture, as_data_uri):
    import av

    path, uri = tmp_path / "state", as_data_uri(picture())
    with Emulator(state=path) as emulator:
        one = caller(emulator)
        emulator.script("create", [faults.Backwards((9, 8)), faults.Moderated("failed")])
        moving, doomed = one.submit(image={"url": uri}), one.submit()
        broken = one.submit(image={"url": "data:,x"})
    with Emulator(state=path) as emulator:
        one = caller(emulator)
        assert one.poll(moving).json["progress"] == 9
        assert b"moderation" in one.ended(doomed).body
        assert one.ended(broken).json["status"] == "failed"
        (tmp_path / "out.mp4").write_bytes(one.download(one.url(moving)).body)
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.video[0].height == 480


def test_every_attempt_at_a_create_is_noted_and_nothing_else(tmp_path, tiny_clip):
    path = tmp_path / "state"
    with Emulator(state=path, clip=tiny_clip) as emulator:
        one = caller(emulator)
        emulator.script("create", [faults.rate_limited(2)])
        one.create()
        request_id = one.submit()
        assert control(one, "storm", {"seconds": 0}).status == 200
        assert one.call("POST", "/other/videos/generations", b"{}", one.key).status == 404
        assert [each["status"] for each in control(one).json["attempts"]] == [429, 200]
    file = sqlite3.connect(path)
    rows = file.execute("SELECT status, retry_after, request_id FROM attempts").fetchall()
    file.close()
    assert rows == [(429, 2.0, None), (200, None, request_id)]


def test_a_state_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "state"
    file = sqlite3.connect(path)
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(ValueError, match="another version"), Emulator(state=path):
        pass


def test_two_emulators_do_not_share_a_state_file(tmp_path, tiny_clip, program):
    """The second one's creates met the first one's numbers: 500, and jobs that were lost."""
    path = tmp_path / "state"
    with Emulator(state=path, clip=tiny_clip) as emulator:
        told = f"{path} is in use by another emulator (at {emulator.origin})"
        with pytest.raises(ValueError, match=re.escape(told)), Emulator(state=path):
            pass
        assert caller(emulator).create().status == 200
        # Anybody may read it all the while.
        with contextlib.closing(sqlite3.connect(path)) as file:
            assert file.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    other = program("--state", str(path))
    with pytest.raises(ValueError, match="in use"), Emulator(state=path):
        pass
    other.process.kill()
    other.process.wait()
    with Emulator(state=path) as emulator:
        assert emulator.accepted == 1


def test_what_is_no_state_file_is_left_as_it_is(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"), Emulator(state=path):
        pass
    assert path.read_text() == "Dear reader, " * 100
    assert list(tmp_path.iterdir()) == [path]


def test_dead_links_and_what_clients_have_reached_survive_too(tmp_path, tiny_clip):
    path = tmp_path / "state"
    with Emulator(state=path, clip=tiny_clip) as emulator:
        one = caller(emulator)
        request_id = one.submit()
        dead, living = one.url(request_id), one.url(request_id)
        emulator.script("download", [faults.LinkDied()])
        assert one.download(dead).status == 403
    with Emulator(state=path, clip=tiny_clip) as emulator:
        one = caller(emulator)
        assert [one.download(url).status for url in (dead, living)] == [403, 200]
        # A client of the first life may poll and download: that can be refused at once.
        for phase in ("poll", "download"):
            emulator.script(phase, [faults.CloseOnAccept()])
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                one.poll(request_id)
            emulator.assert_faults_consumed()


def test_the_door_for_other_processes_steers_the_emulator(still):
    request = {"phase": "create", "faults": [["no_channel"], ["CutAnswer", {"after": 3}]]}
    assert control(still, "script", request).status == 200
    assert control(still).json["faults_left"] == 2
    assert still.create().status == 503
    assert still.raw(still.create_bytes()) == (b"HTT", "reset")
    assert control(still, "storm", {"seconds": 5, "retry_after": 1}).status == 200
    assert still.create().status == 429
    assert [one["status"] for one in control(still).json["attempts"]] == [503, 200, 429]
    assert control(still, "dance", {}).status == 404
    assert control(still, "script", {"phase": "create", "faults": [["json"]]}).status == 400
    assert still.call("GET", "/_emulator").status == 401

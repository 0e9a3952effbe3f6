"""What cannot work is refused where it is said, with what to write instead."""

import http.server
import threading
from pathlib import Path

import pytest
from wire_caller import Caller

from grok_video.emulator import Emulator, faults


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"api_key": "k\n"}, "api_key must be visible ASCII"),
        ({"api_key": "schlüssel"}, "api_key must be visible ASCII"),
        ({"port": -1}, "port must be 0 to 65535"),
        ({"port": 70_000}, "port must be 0 to 65535"),
        ({"form": "Flat"}, "form must be one or several of flat, envelope"),
        ({"time_scale": float("inf")}, "time_scale must be a finite number of at least 0"),
        ({"time_scale": float("nan")}, "time_scale must be a finite number of at least 0"),
        ({"time_scale": "1"}, "time_scale must be a finite number of at least 0"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"link_life": -5}, "link_life must be a number of seconds of at least 0"),
        ({"keep": -1}, "keep must be a whole number of at least 0"),
        ({"keep_jobs": 0}, "keep_jobs must be a whole number of at least 1"),
        ({"clip": "a.mp4"}, r"clip must be .* not 'a.mp4': for a file write Path\('a.mp4'\)"),
        ({"clip": Path("nowhere.mp4")}, "clip must be .* nowhere.mp4 is no file"),
        ({"clip": 5}, "clip must be the bytes of a video, the Path of one, or a function"),
        ({"chaos": 5}, "chaos must be a function"),
        ({"base_path": "/a b"}, "base_path must be"),
        ({"base_path": "/files/v1"}, "base_path must be"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong, told):
    with pytest.raises(ValueError, match=told):
        Emulator(**wrong)


@pytest.mark.parametrize(
    ("given", "path"), [("v1", "/v1"), ("/v1/", "/v1"), ("", ""), ("/", ""), ("a/b", "/a/b")]
)
def test_a_base_path_may_be_written_with_or_without_slashes(given, path, launch, tiny_clip):
    one = launch(base_path=given, clip=tiny_clip)
    assert one.emulator.base_url == one.emulator.origin + path
    assert one.download(one.url(one.submit())).status == 200


@pytest.mark.parametrize("name", ["base_url", "origin", "other_origin"])
def test_an_emulator_has_no_address_before_it_starts(name):
    with pytest.raises(RuntimeError, match="no address yet: enter it"):
        getattr(Emulator(), name)


def test_an_address_is_known_when_the_emulator_has_stopped():
    with Emulator() as emulator:
        base_url = emulator.base_url
    assert emulator.base_url == base_url


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([faults.Expired], r"a fault is made by a call: write faults.Expired\(\)"),
        ([faults.rate_limited], r"a fault is made by a call: write faults.rate_limited\(\)"),
        (["x"], "a script is a list of faults, and 'x' is none"),
        ([faults.Pass(), None], "a script is a list of faults, and None is none"),
        (faults.Pass(), r"a script is a list of faults: write \[Pass\(\)\]"),
    ],
    ids=repr,
)
def test_what_is_no_fault_is_refused_when_it_is_scripted(still, wrong, told):
    with pytest.raises(TypeError, match=told):
        still.emulator.script("poll", wrong)
    assert still.emulator.faults_left == {}


def test_a_stopped_emulator_takes_no_script():
    with Emulator() as emulator:
        pass
    with pytest.raises(RuntimeError, match="has stopped"):
        emulator.script("create", [faults.Pass()])


@pytest.mark.parametrize("name", ["finish", "fail", "expire"])
def test_a_job_nobody_knows_is_named(still, name):
    with pytest.raises(KeyError, match="no job 'nope' here"):
        getattr(still.emulator, name)("nope")


@pytest.mark.parametrize("wrong", [(-1,), (1, -1), (float("nan"),)])
def test_a_storm_has_a_length(still, wrong):
    with pytest.raises(ValueError, match="must be a number of seconds of at least 0"):
        still.emulator.storm(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 99},
        {"status": 600},
        {"status": "429"},
        {"status": 429, "retry_after_seconds": -1.0},
        {"status": 429, "retry_after_seconds": float("inf")},
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_sent_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match=r"status|retry_after_seconds"):
        faults.Answer(**wrong)


def test_headers_of_an_answer_may_be_a_mapping(still):
    still.emulator.script("create", [faults.Answer(418, headers={"X-Pot": "tea"})])
    assert still.create().headers["x-pot"] == "tea"


def test_a_job_finished_by_hand_stays_done_though_its_picture_never_comes(tiny_clip):
    held = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            held.wait(5)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        Emulator(clip=tiny_clip) as emulator,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        one = Caller(emulator)
        request_id = one.submit(image={"url": f"http://127.0.0.1:{server.server_port}/a.png"})
        emulator.finish(request_id)
        assert one.poll(request_id).json["status"] == "done"
        fetching = set(emulator._service._fetching)
        held.set()
        while not all(task.done() for task in fetching):
            pass
        assert one.poll(request_id).json["status"] == "done"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def shared(grok_emulator_session_factory, tiny_clip):
    """One emulator for all tests of a module, as a suite with many of them wants it."""
    return grok_emulator_session_factory(clip=tiny_clip)


@pytest.mark.parametrize("accepted", [1, 2])
def test_a_fixture_of_a_wider_scope_may_make_an_emulator(shared, accepted):
    Caller(shared).submit()
    assert shared.accepted == accepted

"""The life of a job as its polls tell it, in every form, with and without a fate."""

import asyncio
import contextlib
import gc
import socket
import sqlite3
import warnings
from urllib.parse import urlsplit

import anyio
import pytest
from wire_caller import Caller

from grok_video.emulator import Emulator, faults
from grok_video.emulator._origins import Origins
from grok_video.emulator._scripts import Scripts

FORMS = ["flat", "envelope", "native", "native-empty", "early"]


def nested(heard):
    body = heard.json
    return body["data"]["data"] if "data" in body else body


def test_a_fresh_job_names_only_its_id(launch):
    slow = launch(time_scale=1.0)
    request_id = slow.submit()
    assert slow.poll(request_id).json == {"request_id": request_id}


@pytest.mark.parametrize("form", FORMS)
def test_a_job_ends_with_a_link_in_every_form(launch, tiny_clip, form):
    still = launch(form=form, clip=tiny_clip)
    heard = still.ended(still.submit(model="grok-imagine-video", image=None))
    body = nested(heard)
    assert heard.status == 200
    assert body.get("status", "done") == "done"
    assert ("status" in body) == (form != "early")
    assert body["usage"] == {"cost_in_usd_ticks": 500_000_000}
    assert body["video"]["duration"] == 1
    assert still.download(body["video"]["url"]).body == tiny_clip


@pytest.mark.parametrize("form", ["native", "native-empty"])
def test_the_native_forms_answer_202_while_the_job_runs(launch, form):
    slow = launch(form=form, time_scale=1.0)
    heard = slow.poll(slow.submit())
    assert heard.status == 202
    assert heard.body == (b'{"status":"pending","progress":0}' if form == "native" else b"")


def test_the_form_may_change_within_one_job(launch):
    still = launch(form=["flat", "envelope", "native"], time_scale=1.0)
    request_id = still.submit()
    heard = [still.poll(request_id) for _ in range(4)]
    assert [one.status for one in heard] == [200, 200, 202, 200]
    assert [min(one.json) for one in heard] == [
        "request_id",
        "code",
        "progress",
        "request_id",
    ]


def test_every_poll_of_a_done_job_gives_a_fresh_link(still):
    request_id = still.submit()
    urls = {still.url(request_id) for _ in range(20)}
    assert len(urls) == 20
    assert request_id not in "".join(urls)


def test_jobs_are_finished_failed_and_expired_by_hand(launch):
    slow = launch(time_scale=1.0)
    done, failed, expired = (slow.submit() for _ in range(3))
    slow.emulator.finish(done)
    slow.emulator.fail(failed, "internal_error", "out of paint")
    slow.emulator.expire(expired)
    assert slow.poll(done).json["status"] == "done"
    assert slow.poll(failed).json["error"] == {"code": "internal_error", "message": "out of paint"}
    assert slow.poll(expired).json == {"request_id": expired, "status": "expired"}


def test_an_unknown_id_does_not_exist(still):
    heard = still.poll("no-such-id")
    assert heard.status == 400
    assert heard.json["code"] == "task_not_exist"


def test_an_accepted_create_is_counted_with_its_price(still):
    heard = still.create(duration=6, resolution="720p", model="grok-imagine-video")
    record = still.emulator.creates[0]
    assert record.request_id == heard.json["request_id"]
    assert str(record.price) == "0.42"
    assert still.emulator.bill == record.price
    assert record.fields["duration"] == 6
    assert len(record.fingerprint) == 64


def test_the_log_is_bounded_and_the_counters_are_not(launch, tiny_clip):
    still = launch(clip=tiny_clip, keep=3)
    for _ in range(5):
        still.create()
    assert len(still.emulator.requests) == len(still.emulator.creates) == 3
    assert still.emulator.accepted == 5


def test_old_jobs_may_be_forgotten(launch, tiny_clip):
    still = launch(clip=tiny_clip, keep_jobs=2)
    first, second, third = (still.submit() for _ in range(3))
    assert still.poll(first).json["code"] == "task_not_exist"
    assert (
        still.download(still.url(second)).status == still.download(still.url(third)).status == 200
    )
    assert still.emulator.accepted == 3


def test_a_storm_answers_everything_429_for_its_time(still):
    request_id = still.submit()
    still.emulator.storm(0.1, retry_after=1)
    heard = [still.create(), still.poll(request_id)]
    assert [one.status for one in heard] == [429, 429]
    assert all(one.headers["retry-after"] == "1" for one in heard)
    while still.create().status == 429:
        pass
    assert [one.retry_after for one in still.emulator.requests[1:3]] == [1.0, 1.0]


def test_a_create_that_came_before_retry_after_allowed_is_found(still):
    still.emulator.script("create", [faults.rate_limited(60)])
    still.create()
    assert still.emulator.early == ()
    still.create()
    assert [one.number for one in still.emulator.early] == [2]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/_emulator/storm"),
        ("POST", "/grok/v1/videos/edits"),
        ("POST", "/other/videos/generations"),
        ("PUT", "/grok/v1/videos/generations"),
    ],
)
def test_what_the_api_does_not_take_for_a_create_is_none_in_the_log(still, method, path):
    still.emulator.script("create", [faults.rate_limited(60)])
    still.create()
    assert still.call(method, path, b'{"seconds": 0}', still.key).status in (200, 404, 405)
    assert [one.phase for one in still.emulator.requests] == ["create", None]
    assert still.emulator.early == ()


def test_a_create_is_one_however_its_address_is_spelled(still):
    still.emulator.script("create", [faults.rate_limited(60)])
    still.create()
    still.call("POST", "/grok/v1/videos/%67enerations?a=b", b"{}", still.key)
    assert [one.phase for one in still.emulator.requests] == ["create", "create"]
    assert len(still.emulator.early) == 1


@pytest.mark.parametrize(
    "fault", [faults.CutAnswer(after=0), faults.Stall(0.01, after=0)], ids=repr
)
def test_an_answer_of_which_no_byte_was_sent_is_none_in_the_log(tmp_path, tiny_clip, fault):
    with Emulator(state=tmp_path / "state", clip=tiny_clip) as emulator:
        emulator.script("create", [fault])
        one = Caller(emulator)
        assert one.raw(one.create_bytes())[0] == b""
        (seen,) = emulator.requests
    assert (seen.sent, seen.status, seen.answered) == (0, None, None)
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as file:
        assert file.execute("SELECT status, answered FROM attempts").fetchall() == [(None, None)]


@pytest.mark.parametrize(
    "fault",
    [
        faults.CutAnswer(after=1),
        faults.EndlessHeaders(seconds=0.01, interval=0.001),
        faults.Stall(0.2, after=0, resume=True),
        faults.HugeJSON(size=100),
    ],
    ids=repr,
)
def test_an_answer_begins_with_its_first_byte(still, fault):
    still.emulator.script("create", [fault])
    assert still.raw(still.create_bytes())[0]
    (seen,) = still.emulator.requests
    assert seen.status == 200
    waited = 0.9 * fault.seconds if isinstance(fault, faults.Stall) else 0
    assert seen.answered >= seen.at + waited


def test_what_goes_wrong_before_the_first_byte_is_told_in_an_answer(still):
    """The connection was reset, as if there had been an answer that could be broken off."""
    still.emulator.script("create", [faults.Answer(418, headers={"X-Pot": "\N{HOT BEVERAGE}"})])
    heard = still.create()
    assert heard.status == 500
    assert b"UnicodeEncodeError" in heard.body


@pytest.mark.parametrize(
    ("marker", "piece"),
    [
        ("[moderated]", b'"respect_moderation":false'),
        ("[moderated:poll]", b"imagine:content-moderated"),
        ("[failed]", b'"status":"failed"'),
        ("[expired]", b'"status":"expired"'),
    ],
)
def test_a_prompt_may_ask_for_a_bad_end(still, marker, piece):
    assert piece in still.ended(still.submit(prompt=f"a cat {marker}")).body


# ---------------------------------------------------------------- fates


def fate(still, fault, phase, polls=3):
    """What three polls say about a job struck at its create or at its first poll."""
    still.emulator.script(phase, [fault])
    request_id = still.submit()
    if phase == "create":
        still.emulator.finish(request_id)
    heard = [still.poll(request_id) for _ in range(polls)]
    still.emulator.assert_faults_consumed()
    assert still.emulator.accepted == 1
    return heard


@pytest.fixture(params=["create", "poll"])
def phase(request):
    return request.param


@pytest.fixture(params=FORMS)
def any_form(launch, tiny_clip, request):
    return launch(form=request.param, clip=tiny_clip)


@pytest.mark.parametrize(
    "fault",
    [faults.Expired(), faults.Failed(), faults.DoneWithoutURL(), *map(faults.Moderated, ["flag"])],
    ids=repr,
)
def test_a_fate_is_final_in_every_form(any_form, phase, fault):
    heard = fate(any_form, fault, phase)
    assert len({one.body for one in heard}) == 1
    body = nested(heard[0])
    assert not body.get("video", {}).get("url")
    if isinstance(fault, faults.Moderated):
        assert body["video"]["respect_moderation"] is False
        assert body["usage"]["cost_in_usd_ticks"] > 0


@pytest.mark.parametrize(
    ("shape", "status", "piece"),
    [
        ("poll", 400, b'"code":"imagine:content-moderated"'),
        ("top-level", 200, b'"code":"imagine:content-moderated"'),
        ("failed", 200, b'"status":"failed"'),
        ("envelope", 200, b'"status":"FAILURE"'),
    ],
)
def test_moderation_refuses_in_its_other_shapes(still, shape, status, piece):
    for heard in fate(still, faults.Moderated(shape), "create"):
        assert heard.status == status
        assert piece in heard.body
        assert b"rejected by content moderation" in heard.body


def test_an_unknown_status_passes(still):
    first, second, third = fate(still, faults.UnknownStatus("dreaming", polls=2), "create")
    assert [first.json["status"], second.json["status"]] == ["dreaming"] * 2
    assert third.json["status"] == "done"


def test_a_job_may_be_unknown_at_first(still):
    heard = fate(still, faults.TaskNotExist(polls=2), "create")
    assert [one.status for one in heard] == [400, 400, 200]
    assert heard[0].json["code"] == "task_not_exist"


def test_a_job_may_be_unknown_for_a_while(still):
    still.emulator.script("create", [faults.TaskNotExist(polls=0, seconds=0.1)])
    request_id = still.submit()
    heard = [still.poll(request_id).status]
    while heard[-1] == 400:
        heard.append(still.poll(request_id).status)
    assert len(heard) > 3


def test_progress_may_be_stuck(still):
    heard = fate(still, faults.StuckProgress(percent=95, polls=2), "create")
    assert [one.json["progress"] for one in heard] == [95, 95, 100]


def test_a_job_may_go_backwards(still):
    heard = fate(still, faults.Backwards((60, 20, 0)), "create", polls=4)
    assert [one.json["progress"] for one in heard] == [60, 20, 0, 100]
    assert [one.json["status"] for one in heard] == ["processing"] * 2 + ["queued", "done"]


# ---------------------------------------------------------------- doors


async def test_the_emulator_opens_and_closes_on_every_loop():
    async with Emulator() as emulator:
        assert emulator.base_url.startswith("http://127.0.0.1:")


async def test_a_cancelled_caller_leaves_no_thread_behind():
    with anyio.CancelScope() as scope:
        async with Emulator() as emulator:
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert emulator._thread is None
    with pytest.raises(RuntimeError, match="runs once"):
        emulator.start()


def test_a_connection_made_at_the_very_end_is_closed_and_not_dropped(tiny_clip):
    """A client may connect in the turn in which the emulator stops, as a cancelled one does."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(60):
            with Emulator(clip=tiny_clip) as emulator:
                address = urlsplit(emulator.origin)
                peer = socket.create_connection((address.hostname, address.port))
            peer.close()
        gc.collect()
    assert [str(one.message) for one in told] == []


def test_an_emulator_that_stops_as_it_begins_to_refuse_leaves_no_socket_open():
    scripts = Scripts(keep=10, chaos=None)
    scripts.add("create", [faults.Refuse(seconds=5.0)])

    async def stop_in_the_same_turn():
        origins = Origins(None, scripts)
        origins.open(0, 0)
        origins.arm()
        await origins.close()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(stop_in_the_same_turn())
        gc.collect()
    assert [str(one.message) for one in told] == []


def test_two_emulators_run_side_by_side():
    with Emulator() as one, Emulator() as other:
        assert one.base_url != other.base_url
        assert one.api_key != other.api_key


def test_a_taken_port_is_told_to_the_caller():
    with Emulator() as emulator:
        port = int(emulator.origin.rpartition(":")[2])
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"), Emulator(port=port):
            pass


@pytest.mark.parametrize("wrong", [{"form": "round"}, {"form": []}, {"time_scale": -1.0}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Emulator(**wrong)

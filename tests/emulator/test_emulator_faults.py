"""Each fault does what it says, once, in order, and the account is right."""

import contextlib
import gzip
import http.client
import inspect
import json
import pickle
import socket
import time
import zlib
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import attrs
import pytest
from wire_caller import Caller

from grok_video.emulator import Emulator, faults
from grok_video.emulator._routes import Routes


def test_faults_are_consumed_in_order_and_told_apart_by_phase(still):
    emulator = still.emulator
    emulator.script("create", [faults.rate_limited(3), faults.overloaded(), faults.Pass()])
    emulator.script("poll", [faults.empty_202()])
    assert set(emulator.faults_left) == {"create", "poll"}
    with pytest.raises(AssertionError, match="never happened"):
        emulator.assert_faults_consumed()
    assert [still.create().status for _ in range(4)] == [429, 503, 200, 200]
    assert still.poll(emulator.creates[0].request_id).status == 202
    emulator.assert_faults_consumed()
    assert [one.phase for one in emulator.faults_consumed] == ["create"] * 3 + ["poll"]
    assert [one.request for one in emulator.faults_consumed] == [1, 2, 3, 5]
    assert emulator.requests[0].fault == faults.rate_limited(3)
    assert emulator.accepted == 2


def test_a_fault_of_the_file_is_refused_in_another_phase(still):
    with pytest.raises(ValueError, match="download"):
        still.emulator.script("create", [faults.CutFile()])
    with pytest.raises(ValueError, match="create or poll"):
        still.emulator.script("download", [faults.Expired()])
    with pytest.raises(ValueError, match="phase must be"):
        still.emulator.script("upload", [faults.Pass()])


def test_chaos_is_asked_when_no_script_is_left(launch, tiny_clip):
    wanted = iter([faults.overloaded(), None])
    still = launch(clip=tiny_clip, chaos=lambda phase: next(wanted))
    still.emulator.script("create", [faults.rate_limited()])
    assert [still.create().status for _ in range(3)] == [429, 503, 200]


def test_chaos_may_ask_the_emulator_what_is_left_and_script_more(launch, tiny_clip):
    """It was called under the lock that those calls need: nothing was answered any more."""
    box = []

    def chaos(phase):
        if not box[0].faults_left and len(box[0].faults_consumed) < 1:
            box[0].script("create", [faults.rate_limited()])
        return

    still = launch(clip=tiny_clip, chaos=chaos)
    box.append(still.emulator)
    assert [still.create().status for _ in range(3)] == [200, 429, 200]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ZeroDivisionError("boom"), "ZeroDivisionError: boom"),
        (
            faults.Expired,
            "must answer with a fault like faults.Expired(), or None, not with <class",
        ),
        (
            "overloaded",
            "must answer with a fault like faults.Expired(), or None, not with 'overloaded'",
        ),
    ],
)
def test_chaos_that_goes_wrong_is_named_in_the_answer_and_in_the_log(
    launch, tiny_clip, caplog, answer, told
):
    def chaos(phase):
        if isinstance(answer, Exception):
            raise answer
        return answer

    heard = launch(clip=tiny_clip, chaos=chaos).create()
    assert heard.status == 500
    assert heard.headers["content-type"].startswith("text/plain")
    assert told in heard.body.decode()
    assert "what was given as `chaos`" in heard.body.decode()
    assert [record.name for record in caplog.records] == ["grok_video.emulator"]


def test_a_clip_that_goes_wrong_is_named_in_the_answer_and_in_the_log(launch, caplog):
    still = launch(clip=lambda job: 1 / 0)
    heard = still.download(still.url(still.submit()))
    assert heard.status == 500
    assert b"what was given as `clip`" in heard.body
    assert b"ZeroDivisionError" in heard.body
    assert [record.name for record in caplog.records] == ["grok_video.emulator"]


@pytest.mark.parametrize("name", faults.__all__)
def test_every_fault_is_a_value_with_a_docstring(name):
    one = getattr(faults, name)
    assert one.__doc__
    assert one.__module__ == "grok_video.emulator.faults"
    if name not in ("Answer", "html_page"):
        made = one()
        assert pickle.loads(pickle.dumps(made)) == made
        assert hash(made) == hash(one())
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            made.accepted = None


@pytest.fixture(scope="module")
def chaotic(tiny_clip):
    """A caller and a list; a fault put into it strikes the next request of its phase."""
    waiting = []

    def chaos(phase):
        return waiting.pop()[1] if waiting and waiting[0][0] == phase else None

    with Emulator(clip=tiny_clip, chaos=chaos) as emulator:
        yield Caller(emulator), waiting


@pytest.mark.parametrize("phase", ["create", "poll", "download"])
@pytest.mark.parametrize("name", faults.__all__)
def test_no_fault_breaks_the_emulator_wherever_chaos_puts_it(chaotic, caplog, name, phase):
    caller, waiting = chaotic
    small = {"seconds": 0.01, "size": 1000, "depth": 10}
    made = getattr(faults, name)
    known = [one for one in small if one in inspect.signature(made).parameters]
    fault = faults.Answer(418) if name == "Answer" else made(**{one: small[one] for one in known})
    waiting.append((phase, fault))
    broken = (ConnectionError, http.client.HTTPException, ValueError, KeyError, TypeError)
    request_id, url = "none", "/files/none"
    for _ in range(2):
        with contextlib.suppress(*broken):
            request_id = caller.create().json["request_id"]
        with contextlib.suppress(*broken):
            url = caller.poll(request_id).json["video"]["url"]
        with contextlib.suppress(*broken):
            caller.call("GET", urlsplit(url).path)
    assert not waiting
    assert caller.create().status == 200
    assert caplog.records == []


# ---------------------------------------------------------------- at the socket


def test_a_connection_can_be_cut_at_every_byte_of_a_create(still):
    request = still.create_bytes()
    script = [faults.CutRequest(after=n) for n in range(1, len(request) + 1)]
    still.emulator.script("create", script)
    for _ in script:
        assert still.raw(request) == (b"", "reset")
    still.emulator.assert_faults_consumed()
    assert still.emulator.accepted == 0
    assert [one.received for one in still.emulator.requests] == list(range(1, len(request) + 1))


def test_a_request_that_comes_in_pieces_is_cut_at_the_same_byte(still):
    request = still.create_bytes()
    still.emulator.script("create", [faults.CutRequest(after=len(request) - 3, reset=False)])
    assert still.raw(b"", chunks=[request[:2], request[2:40], request[40:]]) == (b"", "closed")
    assert still.emulator.requests[0].received == len(request) - 3
    assert still.create().status == 200
    assert still.emulator.accepted == 1


@pytest.mark.parametrize(
    ("phase", "method", "path"),
    [
        ("create", "POST", "/_emulator/storm"),
        ("create", "POST", "/grok/v1/videos/edits"),
        ("create", "POST", "/grok/v1/videos/x"),
        ("create", "PUT", "/grok/v1/videos/generations"),
        ("poll", "GET", "/nowhere/videos/x"),
        ("poll", "GET", "/grok/v1/videos/generations"),
        ("download", "GET", "/other/files/x"),
        ("download", "POST", "/files/x"),
    ],
)
def test_a_cut_strikes_only_what_the_server_takes_for_its_phase(still, phase, method, path):
    still.emulator.script(phase, [faults.CutRequest(after=20)])
    body = b'{"seconds": 0}' if method != "GET" else None
    assert still.call(method, path, body, still.key).status in (200, 404, 405)
    assert len(still.emulator.faults_left[phase]) == 1


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        ("create", "POST /grok/v1/videos/generations?a=b"),
        ("create", "POST http://x/grok/v1/videos/generations"),
        ("create", "POST /grok/v1/videos/%67enerations"),
        ("poll", "GET /grok/v1/videos/some%2Fid"),
        ("download", "GET /files/x"),
        ("download", "HEAD /files/x"),
    ],
)
def test_a_cut_finds_its_request_however_that_is_spelled(still, phase, line):
    still.emulator.script(phase, [faults.CutRequest(after=60)])
    request = f"{line} HTTP/1.1\r\nHost: x\r\nX-Padding: {'x' * 60}\r\n\r\n".encode()
    assert still.raw(b"", chunks=[request[:8], request[8:30], request[30:]]) == (b"", "reset")
    still.emulator.assert_faults_consumed()


@pytest.mark.parametrize(
    ("data", "phase"),
    [
        (b"", "unclear"),
        (b"PO", "unclear"),
        (b"POST", "unclear"),
        (b"POST /grok/v1/videos/gen", "unclear"),
        (b"POST /grok/v1/videos/generations HT", "create"),
        (b"GET /grok/v1/videos/some-id HTTP/1.1", "poll"),
        (b"HEAD /files/x HTTP/1.1", "download"),
        (b'{"prompt":"x"}', None),
        (b'{"prompt": "x", "duration": 1}', None),
        (b"POSTAL code", None),
        (b"DELETE", None),
    ],
)
def test_only_what_may_become_a_request_of_ours_is_held_until_that_is_clear(data, phase):
    """A body that came before anybody had begun with its request was held for ever."""
    assert Routes("/grok/v1").phase_of(data, files=False) == phase


def test_a_first_line_without_end_is_not_held_for_a_cut_that_is_due(still):
    still.emulator.script("create", [faults.CutRequest(after=60)])
    heard, _ = still.raw(b"POST /" + b"x" * 20_000 + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert b" 400 Bad Request" in heard
    assert still.emulator.faults_left


def test_a_request_shorter_than_the_cut_is_cut_when_complete(still):
    still.emulator.script("create", [faults.CutRequest(after=10_000)])
    assert still.raw(still.create_bytes()) == (b"", "reset")
    assert still.emulator.accepted == 0


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_create_that_arrived_whole_is_billed_only_if_accepted(still, reset, accepted):
    still.emulator.script("create", [faults.CutRequest(reset=reset, accepted=accepted)])
    ended = "reset" if reset else "closed"
    assert still.raw(still.create_bytes()) == (b"", ended)
    assert still.emulator.accepted == accepted
    assert bool(still.emulator.bill) == accepted


def test_a_cut_before_the_end_cannot_claim_acceptance():
    with pytest.raises(ValueError, match="cannot have been accepted"):
        faults.CutRequest(after=10, accepted=True)


def test_an_answer_can_be_cut_at_every_byte(still):
    request = still.create_bytes()
    whole, _ = still.raw(request)
    for reset, ended in ((True, "reset"), (False, "closed")):
        for after in range(len(whole)):
            still.emulator.script("create", [faults.CutAnswer(after=after, reset=reset)])
            heard, how = still.raw(request)
            assert (len(heard), how) == (after, ended)
    still.emulator.assert_faults_consumed()
    assert still.emulator.accepted == 2 * len(whole) + 1


@pytest.mark.parametrize("phase", ["create", "poll", "download"])
def test_refused_connections_are_refused_and_then_taken_again(still, phase):
    if phase != "create":
        request_id = still.submit()
        if phase == "download":
            still.url(request_id)
    still.emulator.script(phase, [faults.Refuse(seconds=0.1)])
    deadline, refused = time.monotonic() + 5, 0
    while time.monotonic() < deadline:
        try:
            still.create()
            if refused:
                break
        except ConnectionRefusedError:
            refused += 1
    assert refused
    still.emulator.assert_faults_consumed()


def test_refusing_polls_waits_until_there_is_a_job(still):
    still.emulator.script("poll", [faults.Refuse(seconds=0.05)])
    still.submit()
    with pytest.raises(ConnectionRefusedError):
        still.poll("x")


@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_can_be_taken_and_closed(still, reset):
    still.emulator.script("create", [faults.CloseOnAccept(reset=reset)])
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        still.create()
    assert still.create().status == 200
    still.emulator.assert_faults_consumed()
    assert still.emulator.accepted == 1


def test_an_idle_connection_is_closed_when_connecting_shall_fail(still):
    with socket.create_connection(still.address, timeout=5) as peer:
        peer.sendall(still.create_bytes(close=False))
        assert peer.recv(65536).startswith(b"HTTP/1.1 200")
        still.emulator.script("poll", [faults.CloseOnAccept()])
        assert peer.recv(65536) == b""


def test_a_stall_ends_by_itself(still):
    still.emulator.script(
        "create",
        [
            faults.Stall(0.03),
            faults.Stall(0.03, accepted=True),
            faults.Stall(0.03, after=20),
            faults.Stall(0.03, after=20, resume=True),
            faults.Stall(0.03, resume=True),
        ],
    )
    request = still.create_bytes()
    heard = []
    for _ in range(5):
        started = time.monotonic()
        heard.append(still.raw(request)[0])
        assert 0.03 <= time.monotonic() - started < 1
    assert [len(one) for one in heard[:3]] == [0, 0, 20]
    assert all(b"request_id" in one for one in heard[3:])
    assert still.emulator.accepted == 4


# ---------------------------------------------------------------- in HTTP


def test_any_answer_can_be_given_with_its_bill(still):
    still.emulator.script("create", [faults.timed_out(), faults.timed_out(accepted=True)])
    first, second = still.create(), still.create()
    assert (first.status, first.body) == (second.status, second.body)
    assert first.status == 524
    assert b"524: A timeout occurred" in first.body
    assert still.emulator.accepted == 1


@pytest.mark.parametrize(
    ("style", "name"),
    [("seconds", "retry-after"), ("date", "retry-after"), ("ms", "retry-after-ms")],
)
def test_retry_after_is_written_in_three_ways(still, style, name):
    still.emulator.script("poll", [faults.rate_limited(2.0, style)])
    value = still.poll("x").headers[name]
    assert {"seconds": value == "2", "date": "GMT" in value, "ms": value == "2000"}[style]
    assert still.emulator.requests[0].retry_after == 2.0


@pytest.mark.parametrize(
    ("seconds", "whole", "ms"),
    [(0.05, "1", "50"), (1.5, "2", "1500"), (2_000_000, "2000000", None), (0, "0", None)],
)
def test_retry_after_is_a_whole_number_and_milliseconds_say_the_rest(still, seconds, whole, ms):
    """RFC 9110, section 10.2.3: digits alone. urllib3 raises on "0.5", others ignore "2e+06"."""
    still.emulator.script("create", [faults.rate_limited(seconds)])
    heard = [still.create()]
    still.emulator.storm(5, seconds)
    heard.append(still.create())
    for one in heard:
        assert one.headers["retry-after"] == whole
        assert one.headers.get("retry-after-ms") == ms


@pytest.mark.parametrize("delta", [7, -7])
def test_a_length_can_be_wrong_in_both_directions(still, delta):
    still.emulator.script("create", [faults.WrongLength(delta)])
    heard, ended = still.raw(still.create_bytes())
    head, _, body = heard.partition(b"\r\n\r\n")
    claimed = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert claimed - len(body) == delta
    assert ended == "closed"
    assert still.emulator.accepted == 1


def test_headers_trickle_and_end(still):
    still.emulator.script("create", [faults.EndlessHeaders(seconds=0.05, interval=0.001)])
    heard, ended = still.raw(still.create_bytes())
    assert b"\r\n\r\n" not in heard
    assert heard.count(b"X-Padding") > 5
    assert ended == "closed"


def test_a_huge_body_is_streamed_and_valid(still):
    still.emulator.script("poll", [faults.HugeJSON(size=3_000_001)])
    heard = still.poll("x")
    assert len(heard.body) == 3_000_001
    assert list(heard.json) == ["request_id"]


def test_a_client_may_leave_a_gibibyte_alone(still):
    still.emulator.script("poll", [faults.HugeJSON(), faults.GzipBomb()])
    for _ in range(2):
        with socket.create_connection(still.address, timeout=5) as peer:
            peer.sendall(b"GET /grok/v1/videos/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(1000)
    assert still.create().status == 200


def test_deep_json_breaks_a_recursive_reader(still):
    still.emulator.script("poll", [faults.DeepJSON()])
    body = still.poll("x").body
    assert body == b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(RecursionError):
        json.loads(body)


def test_a_gzip_bomb_unpacks_to_what_it_says(still):
    still.emulator.script("poll", [faults.GzipBomb(size=5_000_000)])
    heard = still.poll("x")
    assert heard.headers["content-encoding"] == "gzip"
    assert len(heard.body) < 20_000
    assert len(gzip.decompress(heard.body)) == 5_000_000 + 18
    assert zlib.crc32(heard.body)


# ---------------------------------------------------------------- in the file


def test_a_file_is_cut_in_its_middle(still, tiny_clip):
    url = still.url(still.submit())
    path = urlsplit(url).path
    still.emulator.script("download", [faults.CutFile(50_000), faults.CutFile(50_000, reset=True)])
    for ended in ("closed", "reset"):
        heard, how = still.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = heard.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(tiny_clip)}".encode() in head
        assert body == tiny_clip[:50_000]
        assert how == ended


def test_the_log_tells_how_many_bytes_of_a_file_were_sent(still, tiny_clip):
    url = still.url(still.submit())
    still.emulator.script("download", [faults.CutFile(50_000), faults.Pass()])
    path = urlsplit(url).path
    for expected in (50_000, len(tiny_clip)):
        heard, _ = still.raw(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        assert still.emulator.requests[-1].sent == len(heard)
        assert len(heard.partition(b"\r\n\r\n")[2]) == expected


def test_another_version_of_the_file_has_another_etag_and_other_bytes(still, tiny_clip):
    request_id = still.submit()
    url = still.url(request_id)
    first = still.download(url)
    still.emulator.script("download", [faults.OtherVersion()])
    headers = {"Range": "bytes=100-", "If_Range": first.headers["etag"]}
    second = still.download(url, **headers)
    assert second.status == 200
    assert second.headers["etag"] != first.headers["etag"]
    assert second.body != first.body == tiny_clip
    assert still.download(url).body == second.body


def test_another_version_of_the_file_has_a_date_of_its_own(still):
    """If-Range with the date of before got the end of another file."""
    url = still.url(still.submit())
    seen = [still.download(url).headers["last-modified"]]
    still.emulator.script("download", [faults.OtherVersion(), faults.OtherVersion()])
    for _ in range(2):
        heard = still.download(url, Range="bytes=100-", If_Range=seen[-1])
        assert heard.status == 200
        seen.append(heard.headers["last-modified"])
    assert len(set(seen)) == 3
    now = parsedate_to_datetime(heard.headers["date"])
    assert all(parsedate_to_datetime(one) <= now for one in seen)
    assert still.download(url, Range="bytes=100-", If_Range=seen[-1]).status == 206


def test_a_range_can_be_ignored(still, tiny_clip):
    url = still.url(still.submit())
    still.emulator.script("download", [faults.IgnoreRange()])
    assert still.download(url, Range="bytes=5-").body == tiny_clip
    assert still.download(url, Range="bytes=5-").body == tiny_clip[5:]


def test_a_dead_link_stays_dead_and_a_poll_gives_another(still):
    request_id = still.submit()
    url = still.url(request_id)
    still.emulator.script("download", [faults.LinkDied()])
    assert [still.download(url).status for _ in range(2)] == [403, 403]
    assert still.download(still.url(request_id)).status == 200


def test_a_redirect_leads_to_the_second_origin_which_notes_what_it_saw(still, tiny_clip):
    url = still.url(still.submit())
    still.emulator.script("download", [faults.Redirect()])
    heard = still.download(url, Authorization="Bearer secret")
    assert heard.status == 302
    assert heard.headers["location"].startswith(still.emulator.other_origin)
    assert still.download(heard.headers["location"], Authorization="leak").body == tiny_clip
    last = still.emulator.requests[-1]
    assert (last.origin, last.authorization) == ("files", "leak")


def test_a_page_can_come_in_place_of_the_video(still):
    url = still.url(still.submit())
    still.emulator.script("download", [faults.html_page()])
    heard = still.download(url)
    assert heard.status == 200
    assert heard.headers["content-type"].startswith("text/html")

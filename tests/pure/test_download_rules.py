"""What a file server's answer means to someone who has part of the file already; no I/O."""

from __future__ import annotations

import math
import pickle

import pytest
from attrs import evolve

from grok_video import RateLimited, ServerError
from grok_video._partfile import Batch
from grok_video._ranges import (
    Boxes,
    Complete,
    Follows,
    LinkDied,
    Passing,
    StartOver,
    Version,
    judge,
    request_headers,
    version_of,
)
from grok_video._redirects import redirect_target, refused_link
from grok_video._urls import sendable

TAG = '"v1"'
KNOWN = Version(etag=TAG, total=1000)


def partial(content_range: str, etag: str | None = TAG) -> dict[str, str]:
    headers = {"content-range": content_range}
    return headers if etag is None else headers | {"etag": etag}


@pytest.mark.parametrize(
    ("status", "headers", "have", "verdict"),
    [
        (200, {"content-length": "1000", "etag": TAG}, 0, Follows(0, KNOWN)),
        (200, {"content-length": "1000", "etag": TAG}, 400, Follows(0, KNOWN)),
        (200, {}, 0, Follows(0, Version())),
        (200, {"content-length": "-5"}, 0, Follows(0, Version())),
        (200, {"content-length": "٣"}, 0, Follows(0, Version())),
        (206, partial("bytes 400-999/1000"), 400, Follows(400, KNOWN, 1000)),
        (206, partial("bytes 400-599/1000"), 400, Follows(400, KNOWN, 600)),
        (206, partial("BYTES 400-999/*"), 400, Follows(400, KNOWN, 1000)),
        (206, partial("bytes 400-999/1000", '"v2"'), 400, StartOver()),
        (206, partial("bytes 400-999/1000", 'W/"v1"'), 400, StartOver()),
        (206, partial("bytes 400-999/1000", None), 400, StartOver()),
        (206, partial("bytes 400-1999/2000"), 400, StartOver()),
        (206, partial("bytes 300-999/1000"), 400, StartOver()),
        (206, partial("bytes 401-999/1000"), 400, StartOver()),
        (206, partial("bytes */1000"), 400, StartOver()),
        (206, partial("items 400-999/1000"), 400, StartOver()),
        (206, {"content-type": "multipart/byteranges", "etag": TAG}, 400, StartOver()),
        (416, {"content-range": "bytes */1000"}, 1000, Complete()),
        (416, {"content-range": "bytes */900"}, 1000, StartOver()),
        (416, {"content-range": "bytes */900"}, 900, StartOver()),
        (416, {}, 1000, StartOver()),
        (400, {}, 0, LinkDied(400)),
        (401, {}, 0, LinkDied(401)),
        (403, {}, 400, LinkDied(403)),
        (404, {}, 0, LinkDied(404)),
        (410, {}, 0, LinkDied(410)),
    ],
)
def test_an_answer_means(status: int, headers: dict[str, str], have: int, verdict: object) -> None:
    assert judge(status, headers, have=have, version=KNOWN) == verdict


@pytest.mark.parametrize(
    ("status", "kind"),
    [(408, RateLimited), (425, RateLimited), (429, RateLimited)]
    + [(status, ServerError) for status in (500, 502, 503, 504, 524, 202, 204, 304, 302)],
)
def test_what_passes_is_an_error_that_knows_how_long_to_wait(status: int, kind: type) -> None:
    verdict = judge(status, {"retry-after": "7"}, have=0, version=Version())
    assert isinstance(verdict, Passing)
    assert type(verdict.failure) is kind
    assert verdict.failure.retry_after == 7


def test_the_rest_is_asked_for_and_all_of_it_if_the_file_changed() -> None:
    assert request_headers(400, KNOWN) == {"Range": "bytes=400-", "If-Range": TAG}
    assert request_headers(0, KNOWN) == {}
    # A date must not stand in If-Range unless it is a strong validator (RFC 9110, 13.1.5); it is
    # compared with the answer's own instead.
    dated = Version(modified="Tue, 24 Nov 2026 02:33:35 GMT", total=1000)
    assert request_headers(400, dated) == {"Range": "bytes=400-"}


@pytest.mark.parametrize("etag", ['W/"v1"', "v1", '"', '""', ""])
def test_a_weak_or_broken_etag_proves_nothing(etag: str) -> None:
    version = version_of({"etag": etag}, total=5)
    assert (version.etag, version.total) == (None, 5)
    assert not version.is_provable
    assert not version.is_same(version)


def test_versions_are_the_same_only_if_that_can_be_proved() -> None:
    dated = Version(modified="Tue, 24 Nov 2026 02:33:35 GMT", total=5)
    assert KNOWN.is_same(Version(etag=TAG))
    assert not KNOWN.is_same(Version(etag=TAG, total=999))
    assert not KNOWN.is_same(Version(total=1000))
    assert dated.is_same(dated)
    assert not dated.is_same(Version(etag=TAG, modified=dated.modified, total=5))
    assert not Version(total=5).is_same(Version(total=5))
    weak = evolve(dated, weak='W/"1"')
    assert weak.is_same(weak)
    assert weak.is_same(dated)
    assert not weak.is_same(evolve(dated, weak='W/"2"'))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://other.example/b.mp4?sig=1", "https://other.example/b.mp4?sig=1"),
        ("/b.mp4", "https://files.example/b.mp4"),
        ("b.mp4", "https://files.example/v/b.mp4"),
        ("//other.example/b.mp4", "https://other.example/b.mp4"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_to(status: int, location: str, target: str) -> None:
    assert (
        redirect_target("https://files.example/v/a.mp4", status, {"location": location}) == target
    )


def test_an_answer_without_a_location_is_no_redirect() -> None:
    assert redirect_target("https://files.example/a.mp4", 302, {}) is None
    assert redirect_target("https://files.example/a.mp4", 304, {"location": "/b"}) is None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://files.example/a.mp4",
        "data:video/mp4;base64,AAAA",
        "javascript:alert(1)",
        "/a.mp4",
        "",
        "https://",
        "http://[::1",
        "https://files.example:99999/a.mp4",
        "https://user:password@files.example/a.mp4",
        "https://files..example/a.mp4",
        "https://files.example../a.mp4",
        "https://files .example/a.mp4",
        "https://files\0.example/a.mp4",
        "https://" + "a." * 127 + "example/a.mp4",
        "https://.example/a.mp4",
        f"https://{'a' * 64}.example/a.mp4",
        "https://" + "\u00e9" * 60 + ".example/a.mp4",
        "https://\u00ad/a.mp4",
    ],
)
def test_a_link_that_is_never_followed(url: str) -> None:
    assert refused_link(url, public_only=False) is not None


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "localhost",
     "a.localhost", "[64:ff9b::7f00:1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
    "[fec0::1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::5]", "[2001:0:7f00:1::]",
     "0.0.0.0", "192.168.0.1", "[fe80::1]", "100.64.0.1"],
)  # fmt: skip
def test_a_private_address_is_followed_only_from_a_private_api(host: str) -> None:
    assert "private" in (refused_link(f"https://{host}/a.mp4", public_only=True) or "")
    assert refused_link(f"https://{host}/a.mp4", public_only=False) is None


@pytest.mark.parametrize(
    "host",
    ["files.example", "files.example.", "a" * 63, "a_b.example", "xn--caf-dma.example",
     "caf\u00e9.example", "\u05d01.example", "\u06281.example", "127.0.0.1",
     "[2001:db8::1]", "[fe80::1%25eth0]",
     "[fe80::1%25" + "a" * 70 + "]"],
)  # fmt: skip
def test_any_host_that_can_be_looked_up_is_followed(host: str) -> None:
    assert refused_link(f"https://{host}/a.mp4", public_only=False) is None


def test_https_never_leads_to_http() -> None:
    url, before = "http://files.example/a.mp4", "https://files.example/a.mp4"
    assert refused_link(url, public_only=True, came_from=before) == "it leads from https to http"
    assert refused_link(url, public_only=True, came_from="HTTPS://x/") is not None
    assert refused_link(url, public_only=True, came_from="http://x/") is None
    assert refused_link(before, public_only=True, came_from=url) is None


def test_a_new_beginning_forgets_what_waits() -> None:
    batch = Batch()
    batch.add(b"old")
    batch.begin(KNOWN)
    batch.add(b"new!")
    assert (batch.chunks, batch.size, batch.restart) == ([b"new!"], 4, KNOWN)


def test_a_failure_that_passes_can_be_pickled() -> None:
    verdict = judge(503, {}, have=0, version=Version())
    assert isinstance(verdict, Passing)
    assert pickle.loads(pickle.dumps(verdict.failure)).status == 503
    assert verdict.failure.retry_after is None or math.isfinite(verdict.failure.retry_after)


@pytest.mark.parametrize(
    ("link", "sent"),
    [
        ("https://f.test/a b?c d#e f", "https://f.test/a%20b?c%20d#e%20f"),
        ("https://f.test/b\u00e4r\x7f", "https://f.test/b%C3%A4r%7F"),
        # As aiohttp gives a header in ISO 8859-1.
        ("https://f.test/b\udce4r", "https://f.test/b%E4r"),
        # A name has an encoding of its own.
        ("https://b\u00e4r.test/", "https://b\u00e4r.test/"),
    ],
)
def test_what_no_request_line_can_have_is_encoded_behind_the_host(link: str, sent: str) -> None:
    assert sendable(link) == sent


def test_what_a_request_line_can_have_stays_as_it_was_signed() -> None:
    link = "https://f.test/a%2fb%2Fc+d?" + "".join(map(chr, range(0x21, 0x7F)))
    assert sendable(link) is link


def box(kind: bytes, content: bytes, *, long: bool = False) -> bytes:
    if long:
        return b"\0\0\0\1" + kind + (len(content) + 16).to_bytes(8, "big") + content
    return (len(content) + 8).to_bytes(4, "big") + kind + content


FILE = (
    box(b"ftyp", b"mp42....")
    + box(b"mdat", b"x" * 50, long=True)
    + box(b"moov", b"index...")
    + box(b"free", b"")
)


@pytest.mark.parametrize("step", [1, 3, 8, 16, 1000])
def test_a_file_may_end_only_where_a_box_does_and_not_before_its_index(step: int) -> None:
    """Without `moov` nothing can be played, and it may stand last."""
    ends = {16 + 66 + 16, 16 + 66 + 16 + 8}
    assert len(FILE) == max(ends)
    for length in range(len(FILE) + 1):
        boxes = Boxes()
        for at in range(0, length, step):
            boxes.feed(FILE[at : min(at + step, length)])
        assert boxes.is_between == (length in ends)


@pytest.mark.parametrize("has_index", [True, False])
def test_a_last_box_without_a_length_may_end_anywhere_behind_the_index(has_index: bool) -> None:
    boxes = Boxes()
    boxes.feed((FILE if has_index else FILE[:16]) + b"\0\0\0\0mdat")
    assert boxes.is_between == has_index
    boxes.feed(b"whatever, " + box(b"moov", b""))
    assert boxes.is_between == has_index


def test_a_box_that_is_shorter_than_its_head_ends_nothing_for_ever() -> None:
    boxes = Boxes()
    boxes.feed(FILE + b"\0\0\0\5junk" * 1000)
    assert boxes.is_between

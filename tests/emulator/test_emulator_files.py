"""The file behind a link: ranges, validators, and links that die."""

import hashlib
import time

import pytest

from grok_video.emulator._files import Part, part

ETAG, MODIFIED = '"abc"', "Tue, 24 Nov 2026 02:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Part(200, 0, 100)),
        ({"range": "bytes=0-"}, Part(206, 0, 100)),
        ({"range": "bytes=10-19"}, Part(206, 10, 10)),
        ({"range": "bytes=90-200"}, Part(206, 90, 10)),
        ({"range": "bytes=-5"}, Part(206, 95, 5)),
        ({"range": "bytes=-500"}, Part(206, 0, 100)),
        ({"range": "bytes=100-"}, Part(416, 0, 0)),
        ({"range": "bytes=-0"}, Part(416, 0, 0)),
        ({"range": "bytes=20-10"}, Part(200, 0, 100)),
        ({"range": "bytes=-"}, Part(200, 0, 100)),
        ({"range": "bytes=0-1,5-6"}, Part(200, 0, 100)),
        ({"range": "pages=1-2"}, Part(200, 0, 100)),
        ({"range": "bytes=5-", "if-range": ETAG}, Part(206, 5, 95)),
        ({"range": "bytes=5-", "if-range": MODIFIED}, Part(206, 5, 95)),
        ({"range": "bytes=5-", "if-range": '"other"'}, Part(200, 0, 100)),
        ({"if-none-match": ETAG}, Part(304, 0, 0)),
        ({"if-none-match": "*"}, Part(304, 0, 0)),
        ({"if-none-match": '"x,y", W/"abc"'}, Part(304, 0, 0)),
        ({"if-none-match": '"x", "abcd"'}, Part(200, 0, 100)),
        ({"if-none-match": "abc"}, Part(200, 0, 100)),
        ({"range": "bytes=5-", "if-range": f"W/{ETAG}"}, Part(200, 0, 100)),
        ({"range": "bytes=0-" + "9" * 5000}, Part(206, 0, 100)),
        ({"range": f"bytes={'0' * 5000}7-9"}, Part(206, 7, 3)),
        ({"range": f"bytes={'9' * 5000}-"}, Part(416, 0, 0)),
        ({"range": f"bytes=-{'9' * 5000}"}, Part(206, 0, 100)),
    ],
)
def test_a_range_selects_its_part(headers, expected):
    assert part(headers, 100, ETAG, MODIFIED) == expected


def test_a_file_is_served_whole_in_parts_and_from_disk(launch, tmp_path):
    data = bytes(range(256)) * 16_000
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    for clip in (data, path, lambda job: path):
        still = launch(clip=clip)
        url = still.url(still.submit())
        whole = still.download(url)
        assert hashlib.sha256(whole.body).digest() == hashlib.sha256(data).digest()
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.headers["accept-ranges"] == "bytes"
        piece = still.download(url, Range="bytes=3000000-", If_Range=whole.headers["etag"])
        assert piece.status == 206
        assert piece.headers["content-range"] == f"bytes 3000000-4095999/{len(data)}"
        assert piece.body == data[3_000_000:]
        beyond = still.download(url, Range="bytes=4096000-")
        assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */4096000")


def test_a_link_dies_and_a_poll_gives_a_fresh_one(launch, tiny_clip):
    still = launch(clip=tiny_clip, link_life=0.15)
    request_id = still.submit()
    url = still.url(request_id)
    assert still.download(url).status == 200
    deadline = time.monotonic() + 5
    while still.download(url).status == 200:
        assert time.monotonic() < deadline
    assert still.download(url).status == 403
    assert still.download(still.url(request_id)).status == 200


def another_digit(name: str) -> str:
    """Return the name with the last digit of its signature changed, whichever that was."""
    return name[:-5] + ("1" if name[-5] == "0" else "0") + ".mp4"


@pytest.mark.parametrize("change", [another_digit, lambda u: u + "x", lambda _: "-"])
def test_a_link_nobody_issued_is_refused(still, change):
    url = still.url(still.submit())
    name = url.rpartition("/")[2]
    assert still.call("GET", "/files/" + change(name)).status == 403


def test_links_may_point_to_the_second_origin(launch, tiny_clip):
    still = launch(clip=tiny_clip, separate_files=True)
    url = still.url(still.submit())
    assert url.startswith(still.emulator.other_origin)
    assert still.download(url).body == tiny_clip
    assert still.emulator.requests[-1].origin == "files"


def test_head_tells_the_length_and_sends_nothing(still, tiny_clip):
    url = still.url(still.submit())
    heard = still.call("HEAD", "/files/" + url.rpartition("/")[2])
    assert heard.headers["content-length"] == str(len(tiny_clip))
    assert heard.body == b""


def test_head_knows_no_ranges(still, tiny_clip):
    """RFC 9110, section 14.2: a server ignores Range with any method but GET."""
    path = "/files/" + still.url(still.submit()).rpartition("/")[2]
    heard = still.call("HEAD", path, headers={"Range": "bytes=5-9"})
    assert heard.status == 200
    assert heard.headers["content-length"] == str(len(tiny_clip))
    assert "content-range" not in heard.headers

"""What is refused before it costs, and what is sent of what was set."""

from __future__ import annotations

import array
import hashlib
import io
import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from grok_video import Image, InvalidRequest, VideoRequest, frame_size
from grok_video._redaction import redact_url
from grok_video._redirects import refused_link
from grok_video._requests import ASPECT_RATIOS, RESOLUTIONS, sniff

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
WEBP = b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20)


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (words, field, part of the limit)
    "blank prompt": ({"prompt": " \n"}, "prompt", "not blank"),
    "prompt of another type": ({"prompt": 5}, "prompt", "not blank"),
    "lone surrogate": ({"prompt": "\ud800"}, "prompt", "UTF-8"),
    "duration 0": ({"duration": 0}, "duration", "from 1 to 15"),
    "duration 16": ({"duration": 16}, "duration", "from 1 to 15"),
    "duration 2.5": ({"duration": 2.5}, "duration", "an int"),
    "duration as text": ({"duration": "8"}, "duration", "an int"),
    "duration True": ({"duration": True}, "duration", "an int"),
    "unknown ratio": ({"aspect_ratio": "21:9"}, "aspect_ratio", "1:1, 16:9, 9:16"),
    "unknown resolution": ({"resolution": "4k"}, "resolution", "480p, 720p, 1080p"),
    "size": ({"size": "1280x720"}, "size", "use aspect_ratio"),
    "seconds": ({"seconds": 8}, "seconds", "use duration"),
    "blank model": ({"model": ""}, "model", "not blank"),
    "user of another type": ({"user": 7}, "user", "a str"),
    "a user that cannot be shown": ({"user": [10**5000]}, "user", "a str"),
    "output of another type": ({"output": "https://x"}, "output", "a mapping"),
    "output with a local target": ({"output": {"upload_url": "/tmp/x"}}, "output", "http(s) URL"),
    "output with a space before it": (
        {"output": {"upload_url": " https://put.example/x"}},
        "output",
        "http(s) URL",
    ),
    "output with a line break": (
        {"output": {"upload_url": "https://put.example/x\n"}},
        "output",
        "http(s) URL",
    ),
    "output without a host": ({"output": {"upload_url": "https://"}}, "output", "http(s) URL"),
    "output with a surrogate": (
        {"output": {"upload_url": "https://put.example/\ud800"}},
        "output",
        "no lone surrogates",
    ),
    "output with a surrogate within": ({"output": {"a": ["\ud800"]}}, "output", "UTF-8"),
    "output that is nested too deeply": ({"output": nested(100_000)}, "output", "JSON"),
    "output that JSON cannot hold": ({"output": {"x": object()}}, "output", "JSON"),
    "a string that is a local path": ({"image": "cat.jpg"}, "image", "pathlib.Path"),
    "a file URL": ({"image": "file:///etc/passwd"}, "image", "pathlib.Path"),
    "a URL without a host": ({"image": "https:///cat.jpg"}, "image", "with a host"),
    "a URL of no host": ({"image": "https://a..example/cat.jpg"}, "image", "with a host"),
    "a URL of a long host": ({"image": f"https://{'a' * 64}.example/x"}, "image", "with a host"),
    "a URL of a long host in letters of its own": (
        {"image": "https://" + "\u4e2d." * 80 + "com/x.jpg"},  # of 640 characters as it is sent
        "image",
        "with a host",
    ),
    "a URL that no server takes": (
        {"image": "https://cdn.example/x.jpg?sig=" + "a" * 9000},
        "image",
        "at most 8192 characters",
    ),
    "output that no server takes": (
        {"output": {"upload_url": "https://put.example/x?sig=" + "a" * 9000}},
        "output",
        "at most 8192 characters",
    ),
    "a URL with a line break": ({"image": "https://a/b\nc"}, "image", "whole URL"),
    "empty bytes": ({"image": b""}, "image", "not be empty"),
    "a GIF": ({"image": b"GIF89a" + bytes(20)}, "image", "looks like a GIF"),
    "text": ({"image": b"hello, I am a text file"}, "image", "by its bytes"),
    "a text file object": ({"image": io.TextIOWrapper(io.BytesIO())}, "image", "binary mode"),
    "a data URI of another type": ({"image": "data:image/gif;base64,R0lG"}, "image", "of type"),
    "a data URI without base64": ({"image": "data:image/png,abc"}, "image", ";base64,"),
    "an empty data URI": ({"image": "data:image/png;base64,"}, "image", "data in it"),
    "an image of another type": ({"image": 5}, "image", "a path, bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_field_value_and_limit(name: str) -> None:
    words, field, limit = REFUSED[name]
    with pytest.raises(InvalidRequest) as caught:
        VideoRequest(**({"prompt": "slow push-in"} | words))
    error = caught.value
    assert error.field == field
    assert limit in error.limit
    assert field in str(error)
    assert error.limit in str(error)
    assert error.value in str(error)
    assert "Nothing was sent" in str(error)
    assert len(str(error)) < 500


def test_a_word_that_nobody_knows_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"VideoRequest\(\) .* keyword argument 'colour'. Nothing"):
        VideoRequest("drift", colour="red")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Did you mean 'resolution'"):
        VideoRequest("drift", resolutoin="720p")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "field", "limit"),
    [
        (lambda: Image.from_url(5), "image", "a str"),  # type: ignore[arg-type]
        (lambda: Image.from_path(5), "image", "a path"),  # type: ignore[arg-type]
        (lambda: Image.from_path(""), "image", "not empty"),
        (lambda: Image.from_bytes("x"), "image", "must be bytes"),  # type: ignore[arg-type]
        (lambda: Image.from_file("x"), "image", "binary file"),  # type: ignore[arg-type]
        (lambda: Image.from_pil("x"), "image", "a Pillow image"),  # type: ignore[arg-type]
        (lambda: Image("foo", 5), "kind", "one of url, data"),  # type: ignore[arg-type]
        (lambda: Image.from_bytes(memoryview(b"GIF89a")), "image", "a GIF"),
        (lambda: Image("url", "ftp://host/cat.jpg"), "image", "must be an http(s) URL"),
        (lambda: Image("data", "zzz"), "image", "must be a base64 data URI of type image/jpeg"),
        (lambda: Image("path", "cat.jpg"), "image", "must be a pathlib.Path"),
        (lambda: Image("bytes", "abc"), "image", "must be bytes"),
        (lambda: Image("file", "cat.jpg"), "image", "must be an open binary file"),
        (lambda: Image("pil", b"abc"), "image", "must be a Pillow image"),
    ],
)
def test_an_image_made_of_something_else_is_refused_when_it_is_made(
    make: Any, field: str, limit: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field
    assert limit in caught.value.limit


@pytest.mark.parametrize("target", ["foo", "foo?sig=secret", "ftp://a:secret@h/x?sig=secret"])
def test_a_target_that_cannot_be_is_shown_without_its_signature(target: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VideoRequest("drift", output={"upload_url": target})
    assert target.partition("?")[0].rpartition("@")[2] in caught.value.value
    assert "secret" not in str(caught.value)


def test_what_was_checked_of_an_output_is_what_is_sent() -> None:
    output: dict[str, Any] = {"upload_url": "https://put.example/x", "more": {"a": [1]}}
    request = VideoRequest("drift", output=output)
    before = request.fingerprint()
    output["upload_url"] = "ftp://elsewhere"
    output["more"]["a"].append(object())
    assert request.settings()["output"] == {
        "upload_url": "https://put.example/x",
        "more": {"a": [1]},
    }
    assert request.fingerprint() == before


def test_only_what_was_set_is_sent() -> None:
    assert VideoRequest("drift").settings() == {
        "model": "grok-imagine-video-1.5",
        "prompt": "drift",
    }
    assert VideoRequest(
        "drift", duration=6, resolution="480p", aspect_ratio="1:1", user="u7"
    ).settings() == {
        "model": "grok-imagine-video-1.5",
        "prompt": "drift",
        "duration": 6,
        "resolution": "480p",
        "aspect_ratio": "1:1",
        "user": "u7",
    }


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("https://host/cat.jpg", "url"),
        ("HTTP://host/cat.jpg", "url"),
        ("data:image/png;base64,iVBORw0KGgo=", "data"),
        ("data:image/jpg;base64,/9j/", "data"),
        (Path("missing.jpg"), "path"),
        (JPEG, "bytes"),
        (bytearray(PNG), "bytes"),
        (memoryview(WEBP), "bytes"),
        (io.BytesIO(JPEG), "file"),
        (Image.from_bytes(PNG), "bytes"),
    ],
)
def test_an_image_is_what_its_value_says(value: Any, kind: str) -> None:
    assert Image.of(value).kind == kind


def test_a_pil_image_is_an_image() -> None:
    import PIL.Image

    assert Image.of(PIL.Image.new("RGB", (2, 2))).kind == "pil"


def test_constructing_a_request_touches_no_disk() -> None:
    assert VideoRequest("drift", Path("/nowhere/at/all.jpg")).image is not None


@pytest.mark.parametrize(
    ("head", "mime"),
    [(JPEG, "image/jpeg"), (PNG, "image/png"), (WEBP, "image/webp"), (b"RIFF\0\0\0\0WAVE", None)],
)
def test_a_picture_is_known_by_its_bytes(head: bytes, mime: str | None) -> None:
    assert sniff(head[:12]) == mime


def test_a_picture_never_shows_in_a_repr() -> None:
    payload = "iVBORw0KGgo" * 50
    request = VideoRequest("drift", f"data:image/png;base64,{payload}")
    assert payload[:60] not in repr(request)
    assert "550 characters" in repr(request)
    assert "secret" not in repr(VideoRequest("drift", "https://host/a.jpg?sig=secret"))


@pytest.mark.parametrize("length", [300, 80_000])
def test_base64_in_place_of_a_picture_is_told_by_its_length(length: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VideoRequest("drift", "A" * length)
    assert "AAAA" not in str(caught.value)
    assert str(length) in str(caught.value) or str(length + 2) in str(caught.value)  # with quotes


@pytest.mark.parametrize("host", ["\u4e2d.", "a", "a\u0300", "u:p@"])
def test_a_url_of_megabytes_is_refused_at_once_and_not_kept(host: str) -> None:
    def refuse(number: int) -> None:
        url = f"https://{number}" + host * (1_000_000 // len(host)) + "/x.jpg"
        with pytest.raises(InvalidRequest):
            VideoRequest("drift", image=url)
        with pytest.raises(InvalidRequest):
            VideoRequest("drift", output={"upload_url": url})
        with pytest.raises(InvalidRequest):
            Image("url", url)
        assert refused_link(url, public_only=True) is not None
        assert len(redact_url(url)) < 600

    refuse(0)
    tracemalloc.start()
    try:
        before, began = tracemalloc.get_traced_memory()[0], time.perf_counter()
        for number in range(1, 9):
            refuse(number)
        assert time.perf_counter() - began < 1, "they took 1.5 s each"
        assert tracemalloc.get_traced_memory()[0] - before < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["\0" * 5_000_000, "A" * 5_000_000])
def test_a_text_of_megabytes_is_refused_without_a_copy_of_it(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match=r"\(5000000 characters\)"):
            VideoRequest("drift", image=text)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_data_uri_in_its_plain_form_is_kept_as_it_is_and_another_is_made_plain() -> None:
    uri = "data:image/jpeg;base64,/9j/4AAQ"
    assert Image.from_url(uri).source is uri
    for other in (f" {uri}\n", uri.replace("image/jpeg", "IMAGE/jpg"), uri.replace(";b", ";a=b;b")):
        assert Image.from_url(other).source == uri


def test_no_password_shows_of_an_address_that_was_cut() -> None:
    url = "https://user:" + "secret" * 2000 + "@files.example/x.jpg"
    assert "secret" not in redact_url(url)


def test_the_fingerprint_is_the_same_for_the_same_request() -> None:
    def fingerprint(**words: Any) -> str:
        return VideoRequest(**({"prompt": "drift", "image": JPEG} | words)).fingerprint()

    assert fingerprint() == fingerprint()
    others = [fingerprint(prompt="x"), fingerprint(duration=3), fingerprint(image=PNG)]
    others += [fingerprint(image=Path("a.jpg")), fingerprint(image=Path("b.jpg"))]
    assert len({fingerprint(), *others}) == 6
    assert pickle.loads(pickle.dumps(VideoRequest("drift", JPEG))).fingerprint() == fingerprint()


SOURCES: list[Any] = [
    None, "https://h/a.jpg", "https://h/b.jpg", Path("a.jpg"), Path("b.jpg"), JPEG, PNG,
    "data:image/png;base64,QUJD", io.BytesIO(JPEG), io.BytesIO(JPEG),
]  # fmt: skip


def test_requests_are_equal_that_ask_for_the_same() -> None:
    """Open files are the same only as themselves: each has a position of its own."""
    words: list[dict[str, Any]] = [
        {}, {"duration": 6}, {"resolution": "480p"}, {"output": {"upload_url": "https://h/up"}},
    ]  # fmt: skip
    made, again = (
        [VideoRequest("drift", image=source, **more) for source in SOURCES for more in words]
        for _ in range(2)
    )
    for n, one in enumerate(made):
        assert [one == other for other in again] == [n == m for m in range(len(again))]
        assert hash(one) == hash(again[n])
    assert len(set(made) | set(again)) == len(made)
    assert VideoRequest("drift") != "drift"
    assert Image.from_bytes(JPEG) == Image.from_bytes(bytearray(JPEG))
    assert hash(Image.from_bytes(JPEG)) == hash(Image.from_bytes(bytearray(JPEG)))
    assert Image.from_path("a.jpg") != Path("a.jpg")


def test_the_documented_frame_sizes_are_exact() -> None:
    assert frame_size("480p", "1:1") == (480, 480)
    assert frame_size("720p", "16:9") == (1280, 720)
    assert frame_size("720p", "9:16") == (720, 1280)
    assert frame_size("480p", "16:9") == (848, 480)
    assert frame_size("480p", "4:3") == (640, 480)
    assert frame_size("480p", "3:2") == (720, 480)
    assert frame_size("720p", "1:1") == (720, 720)
    assert frame_size("720p", "4:3") == (960, 720)


def test_every_frame_is_even_and_turns_with_its_ratio() -> None:
    for resolution in RESOLUTIONS:
        for ratio in ASPECT_RATIOS:
            width, height = frame_size(resolution, ratio)
            turned = ":".join(reversed(ratio.split(":")))
            assert width % 8 == height % 8 == 0
            if turned in ASPECT_RATIOS:
                assert frame_size(resolution, turned) == (height, width)


@pytest.mark.parametrize("words", [{"resolution": "4k"}, {"aspect_ratio": "2:1"}])
def test_an_unknown_frame_is_refused(words: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        frame_size(**words)  # type: ignore[arg-type]


def test_a_view_that_was_released_is_refused_by_name() -> None:
    view = memoryview(JPEG)
    view.release()
    for give in (Image.of, Image.from_bytes):
        with pytest.raises(InvalidRequest, match="must be a memoryview that was not released"):
            give(view)


@pytest.mark.parametrize(
    "view",
    [
        memoryview(JPEG).cast("B", (4, 6)),
        memoryview(array.array("i", JPEG)),
        memoryview(JPEG[::-1])[::-1],
    ],
    ids=["two dimensions", "ints", "backwards"],
)
def test_a_view_counts_as_its_bytes_whatever_its_shape(view: memoryview) -> None:
    image = Image.from_bytes(view)
    assert bytes(image.source) == view.tobytes()
    assert image.describe() == f"{view.nbytes} bytes"
    same = VideoRequest("drift", view.tobytes())
    assert VideoRequest("drift", image).fingerprint() == same.fingerprint()


def test_the_fingerprint_of_a_long_data_uri_is_that_of_its_text() -> None:
    uri = f"data:image/jpeg;base64,{'/9j/' * 300_000}"
    settings = b'{"model": "grok-imagine-video-1.5", "prompt": "drift"}'
    expected = hashlib.sha256(
        settings + b"\0data\0" + hashlib.sha256(uri.encode()).hexdigest().encode()
    )
    assert VideoRequest("drift", uri).fingerprint() == expected.hexdigest()


def test_what_a_scan_of_a_folder_gives_is_a_path_also_where_its_names_are_bytes(
    tmp_path: Path,
) -> None:
    (tmp_path / "cat.jpg").touch()
    for folder in (tmp_path, os.fsencode(tmp_path)):
        with os.scandir(folder) as found:
            [entry] = found
        assert Image.of(entry) == Image.of(tmp_path / "cat.jpg")

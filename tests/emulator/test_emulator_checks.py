"""What the emulator refuses, and with which answer; what it costs, and how large it is."""

import gzip
import json
from decimal import Decimal

import pytest

from grok_video.emulator._requests import Asked, Refused, frame_size, read_create


def asked(**fields):
    return read_create(json.dumps({"prompt": "x"} | fields).encode())


def test_the_defaults_are_those_of_the_create_page():
    found = asked()
    assert (found.model, found.duration, found.resolution, found.aspect_ratio) == (
        "grok-imagine-video-1.5",
        8,
        "720p",
        None,
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"duration": 0}, "duration"),
        ({"duration": 16}, "duration"),
        ({"duration": 2.5}, "duration"),
        ({"duration": "8"}, "duration"),
        ({"duration": True}, "duration"),
        ({"duration": []}, "duration"),
        ({"aspect_ratio": "21:9"}, "aspect_ratio"),
        ({"aspect_ratio": {}}, "aspect_ratio"),
        ({"resolution": "4k"}, "resolution"),
        ({"resolution": 720}, "resolution"),
    ],
)
def test_a_bad_value_is_refused_by_name(fields, param):
    found = asked(**fields)
    assert isinstance(found, Refused)
    assert (found.kind, found.param) == ("invalid", param)


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"image": {}}, "image: missing field `url`"),
        ({"image": {"url": None}}, "image: missing field `url`"),
        ({"image": {"url": 5}}, "image.url: invalid type: integer `5`"),
        ({"image": "https://host/cat.jpg"}, "image: invalid type: string"),
        ({"image": [1]}, "image: invalid type: sequence"),
        ({"prompt": 5}, "prompt: invalid type: integer `5`"),
        ({"prompt": 2.5}, "prompt: invalid type: floating point"),
        ({"prompt": False}, "prompt: invalid type: boolean `false`"),
        ({"prompt": {}}, "prompt: invalid type: map"),
        ({"model": 5}, "model: invalid type: integer `5`"),
        ({"model": False}, "model: invalid type: boolean `false`"),
        ({"model": ["grok-imagine-video"]}, "model: invalid type: sequence"),
        ({"user": 5}, "user: invalid type: integer `5`"),
        ({"size": 5}, "size: invalid type: integer `5`"),
        ({"output": {"name": "x"}}, "output: missing field `upload_url`"),
    ],
)
def test_a_wrong_shape_is_refused_as_the_provider_refuses_it(fields, start):
    found = asked(**fields)
    assert isinstance(found, Refused)
    assert found.kind == "shape"
    assert found.message.startswith(start)


def test_an_empty_model_is_answered_as_it_was_seen(still):
    heard = still.create(model="")
    assert heard.status == 400
    assert heard.json["error"]["message"].startswith("model name is required (request id: ")
    assert (heard.json["error"]["code"], heard.json["error"]["param"]) == ("", "")


@pytest.mark.parametrize("form", ["native", "native-empty", "early"])
def test_the_provider_refuses_in_its_own_words(launch, tiny_clip, form):
    """Contract, section 4: family P, and no key of CometAPI's."""
    still = launch(form=form, clip=tiny_clip)
    unknown = still.poll("no-such-id")
    assert unknown.status == 404
    assert unknown.json["code"] == "Some requested entity was not found"
    assert set(unknown.json) == {"code", "error"}
    wrong = still.call("GET", still.base + "/videos/x", headers={"Authorization": "Bearer no"})
    assert wrong.status == 400
    assert wrong.json["code"] == "invalid-argument"
    assert wrong.json["error"].startswith("Incorrect API key provided")
    bad = still.create(duration=16)
    assert (bad.status, bad.json["code"]) == (400, "invalid-argument")
    assert "duration" in bad.json["error"]
    assert still.create(model="grok-video").status == 404
    assert "x-request-id" in still.create().headers


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body):
    assert isinstance(read_create(body), Refused)


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "half a \\ud83d"}',
        b'{"prompt": "x", "image": "\\udc00"}',
        b'{"prompt": "x", "image": {"url": "data:,\\uD800"}}',
        b'{"prompt": "half a \xed\xa0\xbd"}',
    ],
)
def test_half_a_character_is_no_json(body):
    found = read_create(body)
    assert isinstance(found, Refused)
    assert (found.kind, found.message) == ("invalid", "invalid JSON body")


def test_a_whole_character_may_be_escaped():
    found = read_create(b'{"prompt": "a \\ud83d\\ude00"}')
    assert isinstance(found, Asked)
    assert found.prompt == "a \U0001f600"


def test_a_body_that_cannot_be_unpacked_is_refused(still):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"} | still.key
    heard = still.create_raw(b'{"prompt": "x"}', headers)
    assert heard.status == 400
    assert "invalid JSON body" in heard.json["error"]["message"]
    assert still.create_raw(gzip.compress(b'{"prompt": "x"}'), headers).status == 200


def test_unknown_fields_are_ignored():
    assert isinstance(asked(size="1x1", seed=5, video_url="x", user="u"), Asked)


def test_a_picture_is_not_kept_in_the_record():
    fields = asked(image={"url": "data:image/png;base64," + "A" * 1000}).fields
    assert fields["image"] == {"url": "data:image/png;base64,<1022 characters>"}


@pytest.mark.parametrize(
    "fields",
    [
        {"image": {"url": "DATA:image/png;base64," + "A" * 100_000}},
        {"reference_images": [{"url": "data:image/png;base64," + "A" * 100_000}]},
        {"last_frame": {"url": "data:image/png;base64," + "A" * 100_000}},
        {"image": {"url": "https://example.com/" + "a" * 100_000}},
        {"anything": [[["A" * 100_000]]]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_no_picture_is_kept_in_the_record_whatever_its_field_is_called(fields):
    assert len(str(asked(**fields).fields)) < 500


def test_a_long_prompt_is_kept_in_the_record_and_depth_is_bounded():
    found = asked(prompt="p" * 4096, deep=json.loads("[" * 500 + "]" * 500))
    assert found.fields["prompt"] == "p" * 4096
    assert len(json.dumps(found.fields)) < 4200


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"model": "grok-imagine-video", "duration": 6, "image": {"url": "u"}}, "0.422"),
        ({"model": "grok-imagine-video", "resolution": "480p"}, "0.40"),
        ({"duration": 15, "resolution": "1080p"}, "3.75"),
        ({"duration": 1, "resolution": "480p", "image": {"url": "u"}}, "0.09"),
        ({"model": "grok-imagine-video-1.5-lite", "duration": 2}, "0.06"),
    ],
)
def test_the_price_is_that_of_the_list(fields, price):
    assert asked(**fields).price == Decimal(price)


@pytest.mark.parametrize(
    ("resolution", "ratio", "image", "size"),
    [
        ("480p", "1:1", None, (480, 480)),
        ("720p", "16:9", None, (1280, 720)),
        ("720p", "9:16", None, (720, 1280)),
        ("480p", "16:9", None, (848, 480)),
        ("480p", "4:3", None, (640, 480)),
        ("480p", "2:3", None, (480, 720)),
        ("720p", "3:4", None, (720, 960)),
        ("1080p", "16:9", None, (1920, 1080)),
        ("720p", None, None, (1280, 720)),
        ("720p", "1:1", (1000, 500), (720, 720)),
        ("480p", None, (641, 427), (720, 480)),
        ("480p", None, (427, 640), (480, 720)),
        ("480p", None, (9000, 9), (1200, 480)),
    ],
)
def test_the_frame_has_the_listed_size(resolution, ratio, image, size):
    assert frame_size(resolution, ratio, image) == size


def test_a_wrong_method_and_a_wrong_path_get_a_page(still):
    path = still.base + "/videos/generations"
    assert still.call("GET", path, headers=still.key).headers["allow"] == "POST"
    assert still.call("PUT", path, headers=still.key).status == 405
    assert still.call("POST", still.base + "/videos/abc", headers=still.key).status == 405
    assert still.call("GET", "/v1/grok/videos/abc", headers=still.key).status == 404
    other = still.emulator.other_origin.rpartition(":")[2]
    elsewhere = still.call("GET", path, headers=still.key, address=("127.0.0.1", int(other)))
    assert elsewhere.status == 404
    assert elsewhere.headers["content-type"] == "text/html"
    assert still.emulator.accepted == 0


def test_the_key_is_asked_for_by_every_call_but_the_download(still):
    request_id = still.submit()
    path = f"{still.base}/videos/{request_id}"
    assert still.call("GET", path).status == 401
    assert still.call("GET", path, headers={"Authorization": "Bearer no"}).status == 401
    assert still.download(still.url(request_id)).status == 200
    assert still.emulator.requests[-1].authorization is None


def test_a_client_that_waits_to_be_told_to_continue_is_told(still):
    request = still.create_bytes().replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n", 1)
    heard, _ = still.raw(request)
    assert heard.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_a_body_beyond_every_limit_is_too_large(still, monkeypatch):
    monkeypatch.setattr("grok_video.emulator._server._LARGEST", 1000)
    heard = still.create(prompt="x" * 2000)
    assert heard.status == 413
    assert b"length limit exceeded" in heard.body

"""A running emulator gives every golden document of tests/wire, word for word."""

import json
import re
from pathlib import Path

import pytest

from grok_video.emulator import faults

WIRE = Path(__file__).parents[1] / "wire"
GOLDEN = sorted(path for call in ("create", "poll") for path in WIRE.glob(f"{call}-*.json"))

# The whole time of a job of this emulator: nothing ends by itself.
SLOW = 1000.0


def normal(text):
    """The text with everything that differs from run to run replaced by its kind."""
    text = re.sub(r"https?://[^\"]*/xai-video-[^\"]*\.mp4", "URL", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"\(request id: \w+\)", "(request id: REQUEST)", text)
    return re.sub(r'_time": ?[1-9]\d*', '_time": 1', text)


def said(heard, golden):
    body = json.loads(normal(heard.body.decode())) if "json" in golden else heard.body.decode()
    names = [name for name in golden["headers"] if name.lower() in heard.headers]
    headers = {name: heard.headers[name.lower()] for name in names}
    return heard.status, headers, body


def wanted(golden):
    body = json.loads(normal(json.dumps(golden["json"]))) if "json" in golden else golden["text"]
    return golden["http_status"], golden["headers"], body


def fault(script):
    name, arguments = script
    return getattr(faults, name)(**arguments)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_emulator_gives_the_golden_document(launch, tiny_clip, path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    how = golden["emulator"]
    caller = launch(form=how.get("form", "flat"), time_scale=SLOW, clip=tiny_clip)
    headers = caller.key | {"Content-Type": "application/json"}
    if "key" in how:
        headers["Authorization"] = f"Bearer {how['key']}"
        if how["key"] is None:
            del headers["Authorization"]
    if "content_type" in how:
        del headers["Content-Type"]
    if "script" in how:
        caller.emulator.script(golden["call"], [fault(how["script"])])
    if golden["call"] == "create":
        raw = how.get("raw") or json.dumps(how["body"])
        target = caller.base + how.get("path", "/videos/generations")
        heard = caller.call("POST", target, raw.encode(), headers)
    else:
        image = {"url": how["image"]} if "image" in how else None
        request_id = caller.submit(model="grok-imagine-video", image=image)
        advance(caller.emulator, request_id, how.get("at", 0.0))
        heard = caller.call("GET", f"{caller.base}/videos/{request_id}", headers=headers)
    caller.emulator.assert_faults_consumed()
    assert said(heard, golden) == wanted(golden)


def advance(emulator, request_id, share):
    """Moves the job's create into the past, by this share of its time."""
    job = emulator._running().job(request_id)
    job.created -= job.lasts * share


def test_every_document_is_complete():
    assert len(GOLDEN) > 50
    for path in GOLDEN:
        golden = json.loads(path.read_text(encoding="utf-8"))
        assert golden["name"] == path.stem
        assert golden["call"] == path.stem.partition("-")[0]
        assert ("json" in golden) != ("text" in golden)
        assert len({"request_id", "status", "error"} & set(golden["expect"])) == 1
        assert golden["source"]

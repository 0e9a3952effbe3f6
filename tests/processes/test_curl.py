"""The create page's own command line, against the emulator in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

#: The documented command, word for word; only host and key are replaced.
DOCUMENTED = r"""
curl https://api.cometapi.com/grok/v1/videos/generations \
  -H "Authorization: Bearer $COMETAPI_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "model": "grok-imagine-video-1.5",
    "prompt": "Animate the still image with a slow camera move and natural motion.",
    "image": {"url": "https://your-image-host/source.jpg"},
    "duration": 1,
    "aspect_ratio": "16:9",
    "resolution": "720p"
  }'
"""


@contextmanager
def emulator(form: str) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "grok_video", "emulator", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--form", form, "--time-scale", "0.0005"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate(timeout=20)


def sh(script: str, key: str) -> str:
    assert shutil.which("curl"), "curl comes with every system this suite runs on"
    done = subprocess.run(
        ["sh", "-c", script],
        env={"COMETAPI_KEY": key, "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("form", ["flat", "envelope", "native"])
def test_the_documented_command_gets_an_id_and_a_loop_gets_done(form: str) -> None:
    with emulator(form) as place:
        host = place["base_url"].removesuffix("/grok/v1")
        create = DOCUMENTED.replace("https://api.cometapi.com", host)
        request_id = json.loads(sh(create, place["api_key"]))["request_id"]
        loop = f"""
for attempt in $(seq 200); do
  answer=$(curl -s -H "Authorization: Bearer $COMETAPI_KEY" {host}/grok/v1/videos/{request_id})
  case "$answer" in *'"status":"done"'*|*'"status": "done"'*) echo "$answer"; exit 0;; esac
done
exit 1
"""
        answer = json.loads(sh(loop, place["api_key"]))
        document = answer["data"]["data"] if form == "envelope" else answer
        assert document["status"] == "done"
        head = sh(f"curl -s -r 4-7 '{document['video']['url']}'", place["api_key"])
        assert head == "ftyp"

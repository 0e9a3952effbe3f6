"""The video plays where people watch it: in a real browser, headless, from loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from ..conftest import PHOTO

#: The page measures the video as a person would see it, and posts what it found.
PAGE = """<!doctype html><video id="v" muted preload="auto" src="/video.mp4"></video><script>
const video = document.getElementById("v");
const shot = () => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 16;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 16, 16);
  return Array.from(context.getImageData(0, 0, 16, 16).data);
};
const at = time => new Promise(done => {
  video.addEventListener("seeked", () => requestAnimationFrame(() => done(shot())), {once: true});
  video.currentTime = time;
});
const tell = found => fetch("/found", {method: "POST", body: JSON.stringify(found)});
video.addEventListener("error", () => tell({error: video.error.message}));
video.addEventListener("canplaythrough", async () => {
  const found = {readyState: video.readyState, duration: video.duration,
                 width: video.videoWidth, height: video.videoHeight};
  found.first = await at(0.001);
  found.last = await at(video.duration - 0.05);
  await video.play();
  found.played = !video.paused;
  tell(found);
}, {once: true});
</script>"""


class Show(ThreadingHTTPServer):
    """Serves one page and one video, with ranges as browsers ask for them."""

    daemon_threads = True

    def __init__(self, video: Path) -> None:
        self.found: queue.Queue[dict[str, Any]] = queue.Queue()
        content = video.read_bytes()
        show = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/video.mp4":
                    self._send(200, "text/html", PAGE.encode())
                    return
                start, end = 0, len(content) - 1
                asked = self.headers.get("Range")
                if asked:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, end = int(first or 0), int(last or end)
                self._send(
                    206 if asked else 200,
                    "video/mp4",
                    content[start : end + 1],
                    f"bytes {start}-{end}/{len(content)}" if asked else None,
                )

            def do_POST(self) -> None:
                show.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._send(200, "text/plain", b"")

            def _send(self, status: int, kind: str, body: bytes, part: str | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Accept-Ranges", "bytes")
                if part:
                    self.send_header("Content-Range", part)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # browsers stop when they have enough
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, "nox -s tests installs Chromium; here there is none"
    process = subprocess.Popen(
        [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def watch(video: Path, folder: Path) -> dict[str, Any]:
    with Show(video) as show:
        threading.Thread(target=show.serve_forever, args=(0.01,), daemon=True).start()
        with browser(f"http://127.0.0.1:{show.server_port}/", folder / "profile"):
            found = show.found.get(timeout=60)
        show.shutdown()
    assert "error" not in found, found
    return found


def difference(a: list[int], b: list[int]) -> float:
    """Return the mean difference of two 16x16 pictures, in steps of 0 to 255."""
    pairs = [(x, y) for n, (x, y) in enumerate(zip(a, b, strict=True)) if n % 4 != 3]
    return sum(abs(x - y) for x, y in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("resolution", "ratio", "size"), [("480p", "1:1", (480, 480)), ("720p", "9:16", (720, 1280))]
)
def test_the_video_plays_and_shows_the_picture(
    tmp_path: Path, resolution: str, ratio: str, size: tuple[int, int]
) -> None:
    words = ["generate", "slow push-in", "--image", str(PHOTO), "--emulator", "--duration", "3"]
    words += ["--resolution", resolution, "--aspect-ratio", ratio, "-o", str(tmp_path / "out.mp4")]
    subprocess.run(
        [sys.executable, "-m", "grok_video", *words], check=True, timeout=60, capture_output=True
    )
    found = watch(tmp_path / "out.mp4", tmp_path)
    assert found["readyState"] == 4
    assert found["played"]
    assert found["duration"] == pytest.approx(3, abs=0.05)
    assert (found["width"], found["height"]) == size
    with PIL.Image.open(io.BytesIO(PHOTO.read_bytes())) as photo:
        source = list(photo.convert("RGBA").resize((16, 16), PIL.Image.Resampling.BOX).tobytes())
    assert difference(found["first"], source) < 12
    assert difference(found["last"], found["first"]) > 4

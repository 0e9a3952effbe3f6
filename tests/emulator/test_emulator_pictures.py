"""Pictures as strangers send them: tiny, torn, too large, many at once."""

import base64
import contextlib
import http.server
import io
import socket
import sqlite3
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from wire_caller import Caller

from grok_video.emulator import Emulator
from grok_video.emulator._render import render
from grok_video.emulator._sources import Source, Unusable, inspect


def test_looking_at_pictures_in_threads_leaves_the_warnings_of_the_program_alone(picture):
    data = picture((1500, 1500))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        before, seen = list(warnings.filters), 0
        with ThreadPoolExecutor(4) as pool:
            looking = [pool.submit(inspect, data) for _ in range(20)]
            while not all(one.done() for one in looking):
                # Filters are the whole process's: set in a thread, they hold here too.
                seen += list(warnings.filters) != before
        assert (seen, list(warnings.filters)) == (0, before)


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_picture_of_too_many_pixels_is_refused_whatever_the_filters_say(
    picture, monkeypatch, action
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    data = picture((64, 48))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        assert isinstance(inspect(data), Unusable)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert isinstance(inspect(data), Source)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (7, 100), (100, 7), (8, 8)])
def test_a_tiny_jpeg_becomes_a_video(launch, picture, as_data_uri, size):
    one = launch()
    data = picture(size, "JPEG")
    heard = one.create(image={"url": as_data_uri(data)})
    assert heard.status == 200
    assert one.download(one.url(heard.json["request_id"])).status == 200


def with_orientation(data, orientation, extra=b""):
    """The JPEG with an EXIF block that says its orientation, and `extra` as entries before it."""
    entries = b"\x01\x12\x00\x03\x00\x00\x00\x01" + orientation.to_bytes(2, "big") + bytes(2)
    count = (1 + len(extra) // 12).to_bytes(2, "big")
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08" + count + extra + entries + bytes(4)
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def test_a_picture_with_a_corrupt_exif_block_is_played_all_the_same(picture, tmp_path):
    # A width that is text: Pillow reads it, and breaks where it writes the block anew.
    data = with_orientation(picture((96, 64), "JPEG"), 6, b"\x01\x00\x00\x02\0\0\0\x04hey\0")
    found = inspect(data)
    assert found == Source(found.digest, (64, 96))
    render(data, (64, 96), 1, tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").stat().st_size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright_as_pillow_does(picture, orientation):
    from PIL import ImageOps

    from grok_video.emulator._render import _upright

    data = with_orientation(picture((96, 64), "JPEG"), orientation)
    with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(data)) as other:
        assert _upright(one).tobytes() == ImageOps.exif_transpose(other).tobytes()


def test_a_fetched_picture_that_cannot_be_kept_fails_in_the_poll(launch, picture, tmp_path):
    """The job used to say `processing` for ever."""

    data = picture((64, 48))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            one = launch()
            folder = one.emulator._service._clips.folder
            folder.rename(tmp_path / "gone")
            url = f"http://127.0.0.1:{server.server_port}/a.png"
            body = one.ended(one.submit(image={"url": url})).json
        finally:
            (tmp_path / "gone").rename(folder)
            server.shutdown()
            thread.join()
    assert body["status"] == "failed"
    assert body["error"]["code"] == "internal"


def test_the_pictures_of_forgotten_jobs_are_deleted(launch, as_data_uri):
    one = launch(keep_jobs=2)
    folder = one.emulator._service._clips.folder

    def noise():
        file = io.BytesIO()
        Image.effect_noise((64, 48), 80).save(file, "PNG")
        return as_data_uri(file.getvalue(), "png")

    same = noise()
    for uri in (same, noise(), noise(), same, same):
        one.submit(image={"url": uri})
    assert len(list(folder.iterdir())) == 1
    assert one.download(one.url(one.emulator.creates[-1].request_id)).status == 200
    for _ in range(2):
        one.submit()
    assert [path.suffix for path in folder.iterdir()] == [".mp4"]


def test_a_state_file_holds_no_pictures_of_forgotten_jobs(tmp_path, picture, as_data_uri):
    for _ in range(2):
        with Emulator(state=tmp_path / "state", keep_jobs=2) as emulator:
            one = Caller(emulator)
            for size in ((8, 8), (9, 9), (10, 10)):
                request_id = one.submit(image={"url": as_data_uri(picture(size), "png")})
            assert one.download(one.url(request_id)).status == 200
    file = sqlite3.connect(tmp_path / "state")
    (count,) = file.execute("SELECT count(*) FROM pictures").fetchone()
    file.close()
    assert count == 2


def test_a_restart_that_forgets_jobs_keeps_the_picture_a_later_one_shares(
    tmp_path, picture, as_data_uri
):
    """The forgotten one took it along, and the living job's file showed the test card."""
    mine, other = (as_data_uri(picture((64, 48), kind)) for kind in ("PNG", "JPEG"))
    files = []
    for _ in range(2):
        with Emulator(state=tmp_path / "state", keep_jobs=1) as emulator:
            one = Caller(emulator)
            if not files:
                request_id = [one.submit(image={"url": uri}) for uri in (mine, other, mine)][-1]
            files.append(one.download(one.url(request_id)).body)
    assert files[0] == files[1]
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as file:
        assert file.execute("SELECT count(*) FROM pictures").fetchone() == (1,)


def test_a_data_uri_may_be_spelled_in_capitals(launch, picture):
    one = launch()
    uri = "DATA:image/png;BASE64," + base64.b64encode(picture()).decode()
    assert one.ended(one.submit(image={"url": uri})).json["status"] == "done"


def test_a_large_create_is_read_beside_the_loop(launch, tiny_clip):
    """Hashing and parsing 20 MiB took a quarter of a second in which nobody was answered."""
    one = launch(clip=tiny_clip)
    free = threading.Event()
    for _ in range(2):
        one.emulator._service._readers.submit(free.wait, 10)
    with socket.create_connection(one.address, timeout=0.2) as peer:
        peer.sendall(one.create_bytes(prompt="x" * 200_000))
        with pytest.raises(TimeoutError):
            peer.recv(100)
        assert one.submit(prompt="x")
        free.set()
        peer.settimeout(5)
        assert peer.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_large_body_waits_on_disk_and_not_in_memory(launch, tiny_clip):
    one = launch(clip=tiny_clip)
    emulator, size = one.emulator, 30_000_000
    head = (
        f"POST {one.base}/videos/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
        f"Authorization: Bearer {emulator.api_key}\r\nContent-Type: application/json\r\n\r\n"
    )
    tracemalloc.start()
    try:
        with socket.create_connection(one.address, timeout=10) as peer:
            peer.sendall(head.encode())
            for _ in range(29):
                peer.sendall(b" " * 1_000_000)
            deadline = time.monotonic() + 10
            while not emulator.requests or emulator.requests[0].received < 28_000_000:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8_000_000

"""Pictures as strangers send them: tiny, torn, too large, many at once."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

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
    import http.server
    import threading

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

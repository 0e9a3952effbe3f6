"""The rendered video: probed, compared with its source, rendered once."""

import http.server
import io
import threading
import time

import av
import pytest
from PIL import Image, ImageChops, ImageStat

from grok_video.emulator import faults


def probe(data):
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_image() for frame in container.decode(stream)]
        context = stream.codec_context
        return {
            "codec": (context.name, context.pix_fmt),
            "size": (context.width, context.height),
            "seconds": container.duration / 1_000_000,
            "rate": float(stream.average_rate),
            "streams": len(container.streams),
        }, frames


def difference(one, other):
    """The mean difference of two pictures, 0 to 255 for each channel."""
    small = (64, 64)
    pair = (one.convert("RGB").resize(small), other.convert("RGB").resize(small))
    return max(ImageStat.Stat(ImageChops.difference(*pair)).mean)


def video(caller, **fields):
    return caller.download(caller.url(caller.submit(**fields))).body


@pytest.fixture(scope="module")
def rendering():
    from wire_caller import Caller

    from grok_video.emulator import Emulator

    with Emulator() as emulator:
        yield Caller(emulator)


@pytest.mark.parametrize(
    ("resolution", "ratio", "duration", "size"),
    [
        ("480p", "1:1", 3, (480, 480)),
        ("720p", "16:9", 1, (1280, 720)),
        ("720p", "9:16", 1, (720, 1280)),
    ],
)
def test_the_video_is_what_was_asked_for(
    rendering, photograph, as_data_uri, resolution, ratio, duration, size
):
    uri = as_data_uri(photograph)
    wanted = {"resolution": resolution, "aspect_ratio": ratio, "duration": duration}
    data = video(rendering, image={"url": uri}, **wanted)
    facts, frames = probe(data)
    assert facts == {
        "codec": ("h264", "yuv420p"),
        "size": size,
        "seconds": duration,
        "rate": 24,
        "streams": 1,
    }
    assert len(frames) == duration * 24
    assert data.index(b"moov") < data.index(b"mdat")
    source = Image.open(io.BytesIO(photograph)).resize(size)
    assert difference(frames[0], source) < 6
    assert difference(frames[-1], frames[0]) > 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_kind_of_picture_is_played_in_its_own_shape(rendering, picture, as_data_uri, kind):
    data = picture((64, 64), kind)
    facts, frames = probe(video(rendering, image={"url": as_data_uri(data, kind.lower())}))
    assert facts["size"] == (480, 480)
    assert difference(frames[0], Image.open(io.BytesIO(data))) < 6


def test_a_picture_that_lies_on_its_side_is_set_upright(rendering, picture, as_data_uri):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = picture((96, 64), "JPEG", exif=exif)
    facts, frames = probe(video(rendering, image={"url": as_data_uri(data)}))
    assert facts["size"] == (480, 720)
    top, bottom = frames[0].getpixel((240, 100)), frames[0].getpixel((240, 620))
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]


def test_a_transparent_picture_is_played(rendering, as_data_uri):
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(file, "PNG")
    _, frames = probe(video(rendering, image={"url": as_data_uri(file.getvalue(), "png")}))
    assert max(frames[0].getpixel((200, 200))) < 20


def test_a_prompt_alone_gives_the_test_card(rendering):
    facts, frames = probe(video(rendering))
    assert facts["size"] == (848, 480)
    assert difference(frames[0], Image.new("RGB", (8, 8))) > 30


def test_the_documented_command_works_with_only_host_and_key_replaced(rendering):
    heard = rendering.create_raw(
        b"""{
    "model": "grok-imagine-video-1.5",
    "prompt": "Animate the still image with a slow camera move and natural motion.",
    "image": {"url": "https://your-image-host/source.jpg"},
    "duration": 1,
    "aspect_ratio": "16:9",
    "resolution": "720p"
  }"""
    )
    request_id = heard.json["request_id"]
    facts, _ = probe(rendering.download(rendering.url(request_id)).body)
    assert facts["size"] == (1280, 720)


def test_the_same_video_is_rendered_once(launch, picture, as_data_uri):
    rendering, uri = launch(), as_data_uri(picture())
    bodies = [video(rendering, image={"url": uri}) for _ in range(3)]
    assert bodies[0] == bodies[1] == bodies[2]
    assert rendering.emulator._service._clips.rendered == 1


def test_a_job_that_is_waited_for_has_its_file_before_it_is_done(launch):
    one = launch(time_scale=0.5)
    request_id = one.submit()
    clips = one.emulator._service._clips
    assert one.poll(request_id).json == {"request_id": request_id}
    deadline = time.monotonic() + 5
    while not clips.rendered:
        assert one.poll(request_id).json.get("status") != "done"
        assert time.monotonic() < deadline
    one.emulator.finish(request_id)
    facts, _ = probe(one.download(one.url(request_id)).body)
    assert facts["seconds"] == clips.rendered == 1


def test_nothing_is_rendered_ahead_that_nobody_waits_for_or_that_will_not_be_there(launch, picture):
    one = launch(time_scale=0.5)
    one.emulator.script("create", [faults.Failed(), faults.Pass()])
    doomed, _unasked = one.submit(), one.submit()
    one.poll(doomed)
    clips = one.emulator._service._clips
    assert not clips.busy
    short = launch()
    short.ended(short.submit())
    assert not short.emulator._service._clips.busy
    long = launch(time_scale=50.0)
    long.poll(long.submit())
    assert not long.emulator._service._clips.busy


def test_what_is_rendered_ahead_is_bounded_and_waits_in_line(launch):
    one = launch(time_scale=0.5)
    clips = one.emulator._service._clips
    for seconds in range(1, 16):
        for resolution in ("480p", "720p", "1080p"):
            for ratio in ("1:1", "16:9"):
                wanted = {"duration": seconds, "resolution": resolution, "aspect_ratio": ratio}
                request_id = one.submit(**wanted, model="grok-imagine-video-1.5-lite")
                one.emulator._service.job(request_id).lasts = 10.0
                one.poll(request_id)
                assert len(clips._ahead) <= 32
                assert len(clips._making) <= 1
    assert clips.busy


def test_nothing_is_left_on_disk(launch):
    from grok_video.emulator import Emulator

    with Emulator() as emulator:
        folder = emulator._service._clips.folder
        assert folder.is_dir()
    assert not folder.exists()


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,@@@@",
        "data:image/png;base64,iVBORw0KGgo=",
        "data:image/png;base64",
        "data:text/plain,hello",
    ],
)
def test_a_broken_data_uri_is_accepted_and_fails_in_the_poll(rendering, uri):
    body = rendering.ended(rendering.submit(image={"url": uri})).json
    assert body["status"] == "failed"
    assert body["error"]["code"] == "invalid_argument"
    assert body["video"] == {"url": "", "duration": 0, "respect_moderation": True}


def test_a_torn_picture_and_a_gif_fail_in_the_poll(rendering, picture, as_data_uri):
    for data in (picture((640, 480), "JPEG")[:3000], picture(kind="GIF")):
        body = rendering.ended(rendering.submit(image={"url": as_data_uri(data)})).json
        assert body["status"] == "failed"


@pytest.mark.parametrize(
    "url",
    ["https://host.test/cat.jpg", "http://192.0.2.1/cat.jpg", "ftp://127.0.0.1/x", "cat.jpg"]
    + ["http://[::1", "https://[oops]/a.jpg"],
)
def test_a_url_off_this_machine_fails_with_the_recorded_words(rendering, url):
    body = rendering.ended(rendering.submit(image={"url": url})).json
    assert body["error"]["message"] == (
        "Unable to download provided image_url, please make sure the url you provided is "
        "publicaly accessible: HTTP 404 Not Found"
    )


@pytest.fixture(scope="module")
def web(photograph):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/cat.jpg":
                self.send_response(200)
                self.send_header("Content-Length", str(len(photograph)))
                self.end_headers()
                self.wfile.write(photograph)
            elif self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/cat.jpg")
                self.end_headers()
            elif self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "https://host.test/cat.jpg")
                self.end_headers()
            else:
                self.send_error(403)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/cat.jpg", "/moved"])
def test_a_url_on_loopback_is_fetched(rendering, web, photograph, path):
    data = video(rendering, image={"url": web + path}, aspect_ratio="1:1")
    _, frames = probe(data)
    assert difference(frames[0], Image.open(io.BytesIO(photograph))) < 6


@pytest.mark.parametrize(
    ("path", "end"), [("/none", "HTTP 403 Forbidden"), ("/away", "HTTP 404 Not Found")]
)
def test_a_url_that_cannot_be_fetched_fails_in_the_poll(rendering, web, path, end):
    body = rendering.ended(rendering.submit(image={"url": web + path})).json
    assert body["error"]["message"].endswith(end)


def test_nobody_listening_fails_in_the_poll(rendering):
    body = rendering.ended(rendering.submit(image={"url": "http://127.0.0.1:1/x"})).json
    assert body["error"]["message"].endswith("connection failed")

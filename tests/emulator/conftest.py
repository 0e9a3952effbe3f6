"""A caller that knows the wire and nothing of the SDK: plain sockets and the standard library."""

import base64
import http.client
import io
import json
import socket
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest

from grok_video.emulator.pytest_plugin import grok_emulator, grok_emulator_factory

# Imported, so that the tests run from a checkout where no entry point is registered.
__all__ = ["grok_emulator", "grok_emulator_factory"]

PHOTOGRAPH = Path(__file__).parents[1] / "photographs" / "rocket.jpg"


@attrs.frozen
class Heard:
    """One answer as it came."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Caller:
    """Calls an emulator, each request on a connection of its own."""

    def __init__(self, emulator):
        self.emulator = emulator
        parts = urlsplit(emulator.base_url)
        self.address, self.base = (parts.hostname, parts.port), parts.path

    def call(self, method, path, body=None, headers=None, *, address=None):
        connection = http.client.HTTPConnection(*(address or self.address), timeout=10)
        with closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            with closing(answer):
                found = {name.lower(): value for name, value in answer.getheaders()}
                return Heard(answer.status, found, answer.read())

    @property
    def key(self):
        return {"Authorization": f"Bearer {self.emulator.api_key}"}

    def create(self, **fields):
        fields = {"prompt": "slow push-in", "duration": 1, "resolution": "480p"} | fields
        return self.create_raw(json.dumps(fields).encode())

    def create_raw(self, body, headers=None):
        path = self.base + "/videos/generations"
        plain = {"Content-Type": "application/json"} | self.key
        return self.call("POST", path, body, plain if headers is None else headers)

    def poll(self, request_id):
        return self.call("GET", f"{self.base}/videos/{request_id}", headers=self.key)

    def submit(self, **fields):
        return self.create(**fields).json["request_id"]

    def ended(self, request_id):
        """The first answer that is not about a running job."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            heard = self.poll(request_id)
            ends = (b'"video"', b"rror", b"expired")
            if heard.status != 202 and any(end in heard.body for end in ends):
                return heard
        raise AssertionError("the job did not end")

    def url(self, request_id):
        body = self.ended(request_id).json
        return body["video"]["url"]

    def download(self, url, **headers):
        parts = urlsplit(url)
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("GET", parts.path, headers=spelled, address=(parts.hostname, parts.port))

    def raw(self, data, *, chunks=None):
        """Everything that comes back for these bytes, and how the connection ended."""
        with socket.create_connection(self.address, timeout=10) as peer:
            heard = b""
            try:
                for chunk in chunks or [data]:
                    peer.sendall(chunk)
                while more := peer.recv(65536):
                    heard += more
            except ConnectionResetError:
                return heard, "reset"
            except BrokenPipeError:
                return heard, "reset"
            return heard, "closed"

    def create_bytes(self, *, close=True, **fields):
        body = json.dumps({"prompt": "x", "duration": 1, "resolution": "480p"} | fields).encode()
        head = (
            f"POST {self.base}/videos/generations HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {self.emulator.api_key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + body


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def launch(grok_emulator_factory):
    def launch(**settings):
        return Caller(grok_emulator_factory(**settings))

    return launch


@pytest.fixture(scope="session")
def tiny_clip():
    """A file to serve where its content does not matter."""
    return bytes.fromhex("0000001c6674797069736f6d00000200") + bytes(range(256)) * 400


@pytest.fixture
def still(launch, tiny_clip):
    """An emulator that serves a given file, so that nothing is rendered."""
    return launch(clip=tiny_clip)


@pytest.fixture(scope="session")
def photograph():
    return PHOTOGRAPH.read_bytes()


def data_uri(data, kind="jpeg"):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="session")
def as_data_uri():
    return data_uri


@pytest.fixture(scope="session")
def picture():
    """Makes a small picture: left half red, right half blue."""
    from PIL import Image

    def make(size=(64, 48), kind="PNG", **options):
        image = Image.new("RGB", size, "red")
        image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return make

"""A caller that knows the wire and nothing of the SDK: plain sockets and the standard library."""

import http.client
import json
import socket
import time
from contextlib import closing
from urllib.parse import urlsplit

import attrs


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

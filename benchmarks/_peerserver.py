"""A server that speaks as much of each peer's API as one job needs; in a process of its own.

A job takes one create and as many polls as `jobs.POLLS`, then its file may be fetched. Bodies are
counted, not kept: a picture of 10 MiB passes through. xai-sdk talks gRPC: its service is played by
grpc.aio, from the protocol files that the package brings.

    python -m benchmarks._peerserver     prints the ports, serves until stdin ends
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from benchmarks import _processes, jobs
from benchmarks._processes import served

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of a body only so much is looked at: a name of an operation, never a picture.
LOOKED_AT = 2048


class Place(NamedTuple):
    """Where the server listens; no gRPC where xai-sdk is not installed."""

    http: int
    grpc: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"


class Server(jobs.Server):
    """Just enough HTTP/1.1 for all of them: never pipelined, bodies by length or chunked."""

    polls: ClassVar[dict[str, int]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.forget()

    def forget(self) -> None:
        self.held, self.head, self.missing, self.chunked, self.tail = b"", b"", 0, False, b""

    def data_received(self, data: bytes) -> None:
        if not self.head:
            self.held += data
            self.head, end, data = self.held.partition(b"\r\n\r\n")
            if not end:
                self.head = b""
                return
            fields = dict(line.lower().split(b":", 1) for line in self.head.split(b"\r\n")[1:])
            self.missing = int(fields.get(b"content-length", b"0"))
            self.chunked = b"transfer-encoding" in fields
            self.held = b""
        if len(self.held) < LOOKED_AT:
            self.held += data[:LOOKED_AT]
        self.missing -= len(data)
        # A chunked body ends with an empty chunk; five zeros of a picture in base64 hold no CRLF.
        self.tail = (self.tail + data[-7:])[-7:] if self.chunked else b""
        if (self.chunked and self.tail == b"\r\n0\r\n\r\n") or (
            not self.chunked and self.missing <= 0
        ):
            method, path, _ = self.head.split(b" ", 2)
            body = self.held
            self.forget()
            self.take(method.decode(), path.decode().partition("?")[0], body)

    def take(self, method: str, path: str, body: bytes) -> None:
        if "/files/" in path or path.endswith("/content"):
            self.answer(jobs.FILE, b"video/mp4")
            return
        if path.endswith(":fetchPredictOperation"):
            name = json.loads(body)["operationName"].rpartition("/")[2]
        elif method == "POST":
            name = f"{len(self.polls):016x}"
            self.polls[name] = 0
            self.answer(json.dumps(self.created(path, name)).encode())
            return
        elif path.startswith("/fal/requests/"):
            name = path.split("/")[3]
            if not path.endswith("/status"):  # the result is the last of its polls
                self.answer(json.dumps({"video": {"url": self.link(name)}}).encode())
                return
        else:
            name = path.rpartition("/")[2]
        self.polls[name] += 1
        polls = jobs.POLLS - 1 if path.startswith("/fal/") else jobs.POLLS
        self.answer(json.dumps(self.polled(path, name, self.polls[name] >= polls)).encode())

    def link(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/files/{name}.mp4"

    def created(self, path: str, name: str) -> dict:
        """Return what the API of this path answers to a create."""
        if path == "/grok/v1/videos/generations":
            return {"request_id": name}
        if path == "/v1/videos":
            return openai_video(name, done=False)
        if path == "/v1/models/x/y/predictions":
            return self.prediction(name, done=False)
        if path == "/v1/image_to_video":
            return {"id": name, "estimatedCost": {"credits": 25}}
        if path.startswith("/fal/"):
            url = f"http://127.0.0.1:{self.port}/fal/requests/{name}"
            more = {"status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
            return {"request_id": name, "response_url": url, **more, "queue_position": 0}
        if path.endswith(":predictLongRunning"):
            return {"name": f"projects/p/locations/l/models/m/operations/{name}"}
        raise ValueError(path)

    def polled(self, path: str, name: str, done: bool) -> dict:
        """Return what the API of this path answers to a poll."""
        if path.startswith("/grok/v1/videos/"):
            if not done:
                return {"status": "pending", "progress": 35}
            return {
                "status": "done",
                "video": {"url": self.link(name), "duration": 6, "respect_moderation": True},
                "model": "grok-imagine-video",
                "usage": {"cost_in_usd_ticks": 4220000000},
                "progress": 100,
            }
        if path.startswith("/v1/videos/"):
            return openai_video(name, done=done)
        if path.startswith("/v1/predictions/"):
            return self.prediction(name, done=done)
        if path.startswith("/v1/tasks/"):
            task = {"id": name, "createdAt": "2026-07-27T10:00:00Z"}
            if not done:
                return task | {
                    "status": "RUNNING",
                    "progress": 0.35,
                    "estimatedCost": {"credits": 25},
                }
            return task | {
                "status": "SUCCEEDED",
                "output": [self.link(name)],
                "cost": {"credits": 25},
            }
        if path.startswith("/fal/"):
            if not done:
                return {"status": "IN_PROGRESS", "logs": None}
            return {"status": "COMPLETED", "logs": None, "metrics": {"inference_time": 20.1}}
        if path.endswith(":fetchPredictOperation"):
            operation = {"name": f"projects/p/locations/l/models/m/operations/{name}"}
            if not done:
                return operation
            video = {"gcsUri": self.link(name), "mimeType": "video/mp4"}
            return operation | {"done": True, "response": {"videos": [video]}}
        raise ValueError(path)

    def prediction(self, name: str, *, done: bool) -> dict:
        return {
            "id": name,
            "model": "x/y",
            "version": "hidden",
            "input": {"prompt": "drift", "image": "https://example.com/a.jpg"},
            "logs": "",
            "error": None,
            "status": "succeeded" if done else "processing",
            "output": self.link(name) if done else None,
            "created_at": "2026-07-27T10:00:00.000Z",
            "urls": {"get": f"http://127.0.0.1:{self.port}/v1/predictions/{name}"},
        }


def openai_video(name: str, *, done: bool) -> dict:
    return {
        "id": name,
        "object": "video",
        "model": "sora-2",
        "status": "completed" if done else "in_progress",
        "progress": 100 if done else 35,
        "created_at": 1785146400,
        "seconds": "4",
        "size": "1280x720",
    }


async def serve_grpc(http: int) -> tuple[object, int]:
    """Play xAI's video service; return the server and its port, 0 where it cannot be played."""
    try:
        import grpc
        from xai_sdk.proto import deferred_pb2, video_pb2, video_pb2_grpc
    except ImportError:
        return None, 0

    class Video(video_pb2_grpc.VideoServicer):
        async def GenerateVideo(self, request, context):  # noqa: N802 - gRPC's spelling
            name = f"{len(Server.polls):016x}"
            Server.polls[name] = 0
            return deferred_pb2.StartDeferredResponse(request_id=name)

        async def GetDeferredVideo(self, request, context):  # noqa: N802
            name = request.request_id
            Server.polls[name] += 1
            if Server.polls[name] < jobs.POLLS:
                return video_pb2.GetDeferredVideoResponse(status="PENDING")
            video = {
                "url": f"http://127.0.0.1:{http}/files/{name}.mp4",
                "duration": 6,
                "respect_moderation": True,
            }
            response = {"video": video, "model": "grok-imagine-video", "progress": 100}
            return video_pb2.GetDeferredVideoResponse(status="DONE", response=response)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 * 2**20)])
    video_pb2_grpc.add_VideoServicer_to_server(Video(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def serve() -> None:
    await jobs.listen(Server)
    spoken, port = await serve_grpc(Server.port)
    await served(Server.port, port)
    if spoken:
        await spoken.stop(0)


@contextlib.contextmanager
def serving() -> Iterator[Place]:
    """Run the server in a process of its own; yield its place."""
    with _processes.serving("benchmarks._peerserver") as numbers:
        yield Place(*numbers)


if __name__ == "__main__":
    asyncio.run(serve())

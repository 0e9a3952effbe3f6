"""HTTP for the service: requests routed, checked, logged and answered, faults carried out.

The only module that writes to a socket. It runs in the emulator's own loop and knows jobs only
through `Service`; how answers go wrong is in `_mischief`.
"""

from __future__ import annotations

import asyncio
import socket
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Literal

from aiohttp import web

from ._answers import TEXT, Reply, page, task_not_exist
from ._connection import Connection
from ._control import control
from ._exchange import Broken, Content, Exchange
from ._faults import (
    CloseOnAccept,
    Fault,
    IgnoreRange,
    LifeFault,
    LinkDied,
    OtherVersion,
    Redirect,
    Refuse,
    rate_limited,
)
from ._files import part
from ._mischief import answer
from ._records import Records, Request
from ._scripts import PHASES, Phase, Scripts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._clips import Clip
    from ._service import Service

CREATE_PATH: Final = "/videos/generations"
POLL_PATH: Final = "/videos/"
FILE_PATH: Final = "/files/"
# Not part of the API: how a test in another process asks and steers this emulator.
CONTROL_PATH: Final = "/_emulator"

# The largest body that is read; beyond it the proxy's 413. Nobody has found the real limit.
_LARGEST: Final = 96 * 1024 * 1024

Origin = Literal["api", "files"]


class Server:
    """Two listening origins on loopback: the API with its files, and one for files only."""

    def __init__(
        self,
        service: Service,
        records: Records,
        scripts: Scripts,
        *,
        api_key: str,
        base_path: str,
        separate_files: bool,
    ) -> None:
        self.service = service
        self.records = records
        self.scripts = scripts
        self._authorization = f"Bearer {api_key}"
        self._base_path = base_path
        self._separate_files = separate_files
        self._ports: dict[Origin, int] = {"api": 0, "files": 0}
        self._listening: dict[Origin, asyncio.Server] = {}
        self._managers: dict[Origin, _Manager] = {}
        self._connections: set[Connection] = set()
        self._reached: set[Phase] = {"create"}
        self._refusing: asyncio.Task[None] | None = None
        self._modified = formatdate(usegmt=True)
        self._storm_until = 0.0
        self._storm_reply = Reply(429)
        self._storm_wait: float | None = None

    # ------------------------------------------------------------------ listening

    async def open(self, port: int, earlier: int) -> None:
        """Both origins listen; the API on `port`, or for 0 on the `earlier` one or any free one."""
        self._managers = {"api": _Manager(self, files=False), "files": _Manager(self, files=True)}
        try:
            endpoint = self._bound(port or earlier)
        except OSError:
            if port:
                raise
            endpoint = self._bound(0)
        await self._listen("api", endpoint)
        await self._listen("files", self._bound(0))

    @property
    def port(self) -> int:
        """Where the API listens."""
        return self._ports["api"]

    def url(self, origin: Origin) -> str:
        """The origin as a URL, without a path."""
        return f"http://127.0.0.1:{self._ports[origin]}"

    @property
    def files_url(self) -> str:
        """The origin that links point to."""
        return self.url("files" if self._separate_files else "api")

    @staticmethod
    def _bound(port: int) -> socket.socket:
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            endpoint.bind(("127.0.0.1", port))
        except OSError:
            endpoint.close()
            raise
        return endpoint

    async def _listen(self, origin: Origin, endpoint: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._listening[origin] = await loop.create_server(
            self._managers[origin], sock=endpoint, backlog=1024
        )
        self._ports[origin] = endpoint.getsockname()[1]

    async def close(self) -> None:
        """Nothing listens and no connection is open."""
        if self._refusing is not None:
            self._refusing.cancel()
            await asyncio.gather(self._refusing, return_exceptions=True)
        for listening in self._listening.values():
            listening.close()
        for connection in tuple(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        # aiohttp waits for handlers that still run; a broken connection ends nearly all of them.
        for manager in self._managers.values():
            await manager.shutdown(0.5)
        while self._connections:  # noqa: ASYNC110 - a few turns of the loop, not a wait
            await asyncio.sleep(0)

    # ------------------------------------------------------------------ connections

    def connected(self, connection: Connection) -> int:
        """The number of a connection that was just made."""
        self._connections.add(connection)
        self.records.connections += 1
        return self.records.connections

    def disconnected(self, connection: Connection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)

    def meet_connection(self) -> Fault | None:
        """The fault a new connection meets, taken from its script."""
        if not self.scripts.connects:
            return None
        for phase in PHASES:
            head = self.scripts.head(phase)
            if phase in self._reached and isinstance(head, CloseOnAccept):
                if self.scripts.pop(phase, head):
                    self.scripts.record(phase, head, 0, self.service.now())
                    self.arm()
                return head
        return None

    def counted(self, connection: Connection, count: int) -> None:
        """Logs how many bytes of a request that is now cut were taken."""
        if connection.request is not None:
            connection.request.received = count

    def begin_cut(self, connection: Connection, phase: Phase, data: bytes, fault: Fault) -> Request:
        """Logs a request that will be cut inside, from its first bytes."""
        words = data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        head = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in head)
        request = Request(
            number=self._number(),
            method=words[0],
            path=words[1] if len(words) > 1 else "",
            origin="files" if connection.files else "api",
            headers={name.lower(): value.strip() for name, _, value in pairs},
            at=self.service.now(),
            connection=connection.number,
            fault=fault,
        )
        self.records.see(request)
        self.scripts.record(phase, fault, request.number, request.at)
        self.arm()
        return request

    def arm(self) -> None:
        """Carries out a fault of connecting that has come to the head of a phase in reach."""
        if not self.scripts.connects or self._refusing is not None:
            return
        for phase in PHASES:
            head = self.scripts.head(phase)
            if phase not in self._reached or not isinstance(head, Refuse | CloseOnAccept):
                continue
            for connection in tuple(self._connections):
                if not connection.busy and connection.transport is not None:
                    connection.transport.close()
            if isinstance(head, Refuse):
                held: dict[Origin, socket.socket] = {}
                for origin, listening in self._listening.items():
                    listening.close()
                    # Bound but not listening: the port stays ours, every connect is refused.
                    held[origin] = self._bound(self._ports[origin])
                loop = asyncio.get_running_loop()
                self._refusing = loop.create_task(self._refuse(phase, head, held))
            return

    async def _refuse(self, phase: Phase, fault: Refuse, held: dict[Origin, socket.socket]) -> None:
        try:
            await asyncio.sleep(fault.seconds)
            for origin in tuple(held):
                await self._listen(origin, held.pop(origin))
        finally:
            for endpoint in held.values():
                endpoint.close()
        self._refusing = None
        if self.scripts.pop(phase, fault):
            self.scripts.record(phase, fault, 0, self.service.now())
        self.arm()

    # ------------------------------------------------------------------ requests

    def storm(self, seconds: float, retry_after: float | None = None) -> None:
        """For so many seconds every create and poll is answered 429."""
        stand_in = rate_limited(retry_after)
        self._storm_reply = Reply(429, stand_in.body, headers=stand_in.all_headers())
        self._storm_wait = retry_after
        self._storm_until = self.service.now() + seconds

    def _number(self) -> int:
        self.records.seen += 1
        return self.records.seen

    async def handle(self, raw: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        """The answer to one request, already sent; what is returned only ends it for aiohttp."""
        connection.busy = True
        if connection.cut is None:
            log = self._log(raw, connection)
        else:
            log = connection.request or self._log(raw, connection)
        exchange = Exchange(raw, connection, log)
        try:
            await self._route(exchange)
        except (Broken, ConnectionError):
            exchange.keep = False
        finally:
            connection.busy = False
            if log.method == "POST" and log.origin == "api":
                self.service.note_attempt(log)
        if self.scripts.connects:
            exchange.keep = exchange.keep and not self._closing()
        return exchange.finished()

    def _log(self, raw: web.BaseRequest, connection: Connection) -> Request:
        log = Request(
            number=self._number(),
            method=raw.method,
            path=raw.path_qs,
            origin="files" if connection.files else "api",
            headers={name.lower(): value for name, value in raw.headers.items()},
            at=self.service.now(),
            connection=connection.number,
        )
        self.records.see(log)
        return log

    def _closing(self) -> bool:
        """Whether this connection has to close, because a fault of connecting is due next.

        Armed before the answer goes out: the client may connect again as soon as it has it.
        """
        if not self.scripts.connects:
            return False
        self.arm()
        heads = (self.scripts.head(phase) for phase in PHASES if phase in self._reached)
        return any(isinstance(head, Refuse | CloseOnAccept) for head in heads)

    async def _route(self, exchange: Exchange) -> None:
        path, method = exchange.raw.path, exchange.raw.method
        phase: Phase
        allowed: tuple[str, ...]
        if path.startswith(CONTROL_PATH) and not exchange.connection.files:
            await self._control(exchange, path[len(CONTROL_PATH) :])
            return
        if path.startswith(FILE_PATH):
            phase, allowed = "download", ("GET", "HEAD")
        elif exchange.connection.files or not path.startswith(self._base_path + POLL_PATH):
            await exchange.send(page(404, "404 Not Found"))
            return
        elif path == self._base_path + CREATE_PATH:
            phase, allowed = "create", ("POST",)
        else:
            phase, allowed = "poll", ("GET",)
        if method not in allowed:
            reply = page(405, "405 Not Allowed")
            await exchange.send(reply, (("Allow", ", ".join(allowed)),))
            return
        if phase == "poll":
            self.records.polls += 1
        elif phase == "download":
            self.records.downloads += 1
        fault: Fault | None = exchange.connection.cut
        if fault is None:
            fault = self.scripts.take(phase)
            if fault is not None:
                exchange.log.fault = fault
                now = self.service.now()
                self.scripts.record(phase, fault, exchange.log.number, now)
        if phase == "download":
            await self._download(exchange, fault)
        elif phase == "create":
            await self._create(exchange, fault)
        else:
            await self._poll(exchange, fault)

    def _unauthorized(self, exchange: Exchange) -> Reply | None:
        given = exchange.log.headers.get("authorization")
        if given == self._authorization:
            return None
        if given is None:
            return self.service.gateway_error(401, "No token provided")
        return self.service.gateway_error(401, "Invalid token")

    async def _create(self, exchange: Exchange, fault: Fault | None) -> None:
        body = await exchange.read(_LARGEST)
        if fault is not None and not fault.accepted:
            await answer(exchange, fault, None)
            return
        reply = await self._real_create(exchange, body, fault)
        await answer(exchange, fault, reply, closing=self._closing())

    async def _real_create(
        self, exchange: Exchange, body: bytes | None, fault: Fault | None
    ) -> Reply:
        if (refusal := self._unauthorized(exchange)) is not None:
            return refusal
        if self.service.now() < self._storm_until:
            exchange.log.retry_after = self._storm_wait
            return self._storm_reply
        if body is None:
            text = b'{"error":"Failed to read request body: length limit exceeded"}'
            return Reply(413, text)
        media = exchange.log.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            text = b"Expected request with `Content-Type: application/json`"
            return Reply(415, text, TEXT)
        reply, job = await self.service.create(body)
        if job is not None:
            exchange.log.request_id = job.request_id
            self._reached.add("poll")
            if isinstance(fault, LifeFault):
                self.service.strike(job, fault)
        return reply

    async def _poll(self, exchange: Exchange, fault: Fault | None) -> None:
        if isinstance(fault, LifeFault) or fault is None or fault.accepted:
            reply = self._real_poll(exchange, fault)
        else:
            reply = None
        await answer(exchange, fault, reply, closing=self._closing())

    def _real_poll(self, exchange: Exchange, fault: Fault | None) -> Reply:
        if (refusal := self._unauthorized(exchange)) is not None:
            return refusal
        if self.service.now() < self._storm_until:
            exchange.log.retry_after = self._storm_wait
            return self._storm_reply
        request_id = exchange.raw.path[len(self._base_path + POLL_PATH) :]
        job = self.service.job(request_id)
        if job is None:
            return task_not_exist()
        exchange.log.request_id = request_id
        strike = fault if isinstance(fault, LifeFault) else None
        reply = self.service.poll(job, self.files_url, strike)
        if self.service.is_done(job):
            self._reached.add("download")
        return reply

    async def _control(self, exchange: Exchange, name: str) -> None:
        body = await exchange.read(_LARGEST)
        refusal = self._unauthorized(exchange)
        reply = refusal or control(self, exchange.raw.method, name.strip("/"), body or b"")
        await exchange.send(reply)

    # ------------------------------------------------------------------ files

    async def _download(self, exchange: Exchange, fault: Fault | None) -> None:
        name = exchange.raw.path[len(FILE_PATH) :].removesuffix(".mp4")
        if isinstance(fault, LinkDied):
            self.service.kill_link(name)
        job = self.service.linked(name)
        if fault is not None and not fault.accepted:
            await answer(exchange, fault, None)
            return
        if job is None:
            await answer(exchange, fault, page(403, "403 Forbidden"))
            return
        exchange.log.request_id = job.request_id
        if isinstance(fault, Redirect):
            to = fault.to or self.url("files") + exchange.raw.path
            await exchange.send(Reply(fault.status), (("Location", to),))
            return
        if isinstance(fault, OtherVersion):
            self.service.another_version(job)
        clip = await self.service.clip(job)
        await answer(exchange, fault, *self._part(exchange, clip, fault))

    def _part(
        self, exchange: Exchange, clip: Clip, fault: Fault | None
    ) -> tuple[Reply, Content | None]:
        headers: Mapping[str, str] = exchange.log.headers
        if isinstance(fault, IgnoreRange):
            headers = {}
        wanted = part(headers, clip.size, clip.etag, self._modified)
        facts = [("ETag", clip.etag), ("Last-Modified", self._modified)]
        if wanted.status == 416:
            facts.append(("Content-Range", f"bytes */{clip.size}"))
            return Reply(416, b"", headers=tuple(facts)), None
        facts.append(("Accept-Ranges", "bytes"))
        if wanted.status == 206:
            last = wanted.start + wanted.count - 1
            facts.append(("Content-Range", f"bytes {wanted.start}-{last}/{clip.size}"))
        content = Content(clip, wanted.start, wanted.count)
        return Reply(wanted.status, b"", "video/mp4", tuple(facts)), content


class _Manager(web.Server):
    """Makes connections of our kind for aiohttp's server."""

    def __init__(self, owner: Server, *, files: bool) -> None:
        async def handle(raw: web.BaseRequest) -> web.StreamResponse:
            connection = raw.protocol
            assert isinstance(connection, Connection)  # noqa: S101 - made below
            return await owner.handle(raw, connection)

        super().__init__(handle)
        self._owner = owner
        self._files = files

    def __call__(self) -> Connection:
        return Connection(self, self._owner, self._loop, files=self._files)

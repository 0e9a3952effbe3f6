"""HTTP for the service: requests routed, checked, logged and answered, faults carried out.

The only module that writes to a socket. It runs in the emulator's own loop and knows jobs only
through `Service`; how answers go wrong is in `_mischief`.
"""

from __future__ import annotations

import contextlib
import logging
from email.utils import formatdate
from typing import IO, TYPE_CHECKING, Final

from ._answers import TEXT, Reply, page
from ._control import control
from ._exchange import Broken, Content, Exchange
from ._faults import (
    Fault,
    IgnoreRange,
    LifeFault,
    LinkDied,
    OtherVersion,
    Redirect,
)
from ._files import part
from ._mischief import answer
from ._origins import Origins
from ._records import Records, Request
from ._render import Abandoned
from ._routes import CONTROL_PATH, FILE_PATH, Routes
from ._scripts import Mistaken
from .faults import rate_limited

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ._clips import Clip
    from ._connection import Connection
    from ._scripts import Phase, Scripts
    from ._service import Service

# The largest body that is read; beyond it the proxy's 413. Nobody has found the real limit.
_LARGEST: Final = 96 * 1024 * 1024

_LOG: Final = logging.getLogger("grok_video.emulator")


class Server:
    """Answers every request that comes to either origin."""

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
        self.routes = Routes(base_path)
        self._separate_files = separate_files
        self.origins = Origins(self, scripts)
        for phase in service.phases():
            self.origins.reach(phase)
        self._storm_until = 0.0
        self._storm_reply = Reply(429)
        self._storm_wait: float | None = None

    # ------------------------------------------------------------------ requests

    def storm(self, seconds: float, retry_after: float | None = None) -> None:
        """For so many seconds every create and poll is answered 429."""
        stand_in = rate_limited(retry_after)
        self._storm_reply = Reply(429, stand_in.body, headers=stand_in.all_headers())
        self._storm_wait = retry_after
        self._storm_until = self.service.now() + seconds

    def count_connection(self) -> int:
        """The number of a connection that was just made."""
        self.records.connections += 1
        return self.records.connections

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
        except (Abandoned, Broken, ConnectionError):
            exchange.keep = False
        except Exception as error:  # noqa: BLE001 - told to whoever asked, and logged
            await self._broke(exchange, error)
        finally:
            connection.busy = False
            if log.phase == "create":
                self.service.note_attempt(log)
        exchange.keep = exchange.keep and not self.origins.closing()
        return exchange.finished()

    async def _broke(self, exchange: Exchange, error: Exception) -> None:
        """Says what went wrong here, as plain text that no answer of the API looks like."""
        told = str(error) if isinstance(error, Mistaken) else f"{type(error).__name__}: {error}"
        log = exchange.log
        _LOG.exception("the emulator could not answer %s %s", log.method, log.path)
        exchange.keep = False
        if log.status is not None:
            # Too late for another answer: what was begun is broken off.
            exchange.connection.end(reset=True)
            return
        text = f"the emulator could not answer: {told}"
        with contextlib.suppress(ConnectionError):
            await exchange.send(Reply(500, text.encode(errors="replace"), TEXT))

    def _log(self, raw: web.BaseRequest, connection: Connection) -> Request:
        log = Request(
            number=self._number(),
            method=raw.method,
            path=raw.path_qs,
            origin="files" if connection.files else "api",
            headers={name.lower(): value for name, value in raw.headers.items()},
            at=self.service.now(),
            connection=connection.number,
            phase=self.routes.phase(raw.method, raw.path, files=connection.files),
        )
        self.records.see(log)
        return log

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
            phase=phase,
            fault=fault,
        )
        self.records.see(request)
        self.scripts.record(phase, fault, request.number, request.at)
        self.origins.arm()
        return request

    async def _route(self, exchange: Exchange) -> None:
        path, method = exchange.raw.path, exchange.raw.method
        if path.startswith(CONTROL_PATH) and not exchange.connection.files:
            await self._control(exchange, path[len(CONTROL_PATH) :])
            return
        place = self.routes.place(path, files=exchange.connection.files)
        if place is None:
            await exchange.send(page(404, "404 Not Found"))
            return
        if method not in place.methods:
            reply = page(405, "405 Not Allowed")
            await exchange.send(reply, (("Allow", ", ".join(place.methods)),))
            return
        phase = place.phase
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
        return None if given == self._authorization else self.service.unauthorized(given)

    async def _create(self, exchange: Exchange, fault: Fault | None) -> None:
        with self.service.room() as body:
            size = await exchange.read(body, _LARGEST)
            if fault is not None and not fault.accepted:
                reply = None
            else:
                reply = await self._real_create(exchange, body, size, fault)
        closing = reply is not None and self.origins.closing()
        await answer(exchange, fault, reply, closing=closing)

    async def _real_create(
        self, exchange: Exchange, body: IO[bytes], size: int | None, fault: Fault | None
    ) -> Reply:
        if (refusal := self._unauthorized(exchange)) is not None:
            return refusal
        if self.service.now() < self._storm_until:
            exchange.log.retry_after = self._storm_wait
            return self._storm_reply
        if size is None:
            text = b'{"error":"Failed to read request body: length limit exceeded"}'
            return Reply(413, text)
        media = exchange.log.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            text = b"Expected request with `Content-Type: application/json`"
            return Reply(415, text, TEXT)
        reply, job = await self.service.create(body, size)
        if job is not None:
            exchange.log.request_id = job.request_id
            self.origins.reach("poll")
            if isinstance(fault, LifeFault):
                self.service.strike(job, fault)
        return reply

    async def _poll(self, exchange: Exchange, fault: Fault | None) -> None:
        if isinstance(fault, LifeFault) or fault is None or fault.accepted:
            reply = self._real_poll(exchange, fault)
        else:
            reply = None
        await answer(exchange, fault, reply, closing=self.origins.closing())

    def _real_poll(self, exchange: Exchange, fault: Fault | None) -> Reply:
        if (refusal := self._unauthorized(exchange)) is not None:
            return refusal
        if self.service.now() < self._storm_until:
            exchange.log.retry_after = self._storm_wait
            return self._storm_reply
        request_id = self.routes.request_id(exchange.raw.path)
        job = self.service.job(request_id)
        if job is None:
            return self.service.unknown(request_id)
        exchange.log.request_id = request_id
        strike = fault if isinstance(fault, LifeFault) else None
        link_base = self.origins.url("files" if self._separate_files else "api")
        reply = self.service.poll(job, link_base, strike)
        if self.service.reached(job):
            self.origins.reach("download")
        return reply

    async def _control(self, exchange: Exchange, name: str) -> None:
        with self.service.room() as body:
            await exchange.read(body, _LARGEST)
            refusal = self._unauthorized(exchange)
            reply = refusal or control(self, exchange.raw.method, name.strip("/"), body.read())
        await exchange.send(reply)

    # ------------------------------------------------------------------ files

    async def _download(self, exchange: Exchange, fault: Fault | None) -> None:
        name = exchange.raw.path[len(FILE_PATH) :]
        if isinstance(fault, LinkDied):
            self.service.kill(name)
        job = self.service.linked(name)
        if fault is not None and not fault.accepted:
            await answer(exchange, fault, None)
            return
        if job is None:
            await answer(exchange, fault, page(403, "403 Forbidden"))
            return
        exchange.log.request_id = job.request_id
        if isinstance(fault, Redirect):
            to = fault.to or self.origins.url("files") + exchange.raw.path
            await exchange.send(Reply(fault.status), (("Location", to),))
            return
        if isinstance(fault, OtherVersion):
            self.service.another_version(job)
        clip = await self.service.clip(job)
        # A second for each version, and all of them past: RFC 9110, section 8.8.2.1.
        modified = formatdate(job.created - 3600 + job.version, usegmt=True)
        await answer(exchange, fault, *self._part(exchange, clip, fault, modified))

    def _part(
        self, exchange: Exchange, clip: Clip, fault: Fault | None, modified: str
    ) -> tuple[Reply, Content | None]:
        headers: Mapping[str, str] = exchange.log.headers
        if isinstance(fault, IgnoreRange):
            headers = {}
        if exchange.raw.method == "HEAD":
            headers = {name: value for name, value in headers.items() if name != "range"}
        wanted = part(headers, clip.size, clip.etag, modified)
        facts = [("ETag", clip.etag), ("Last-Modified", modified)]
        if wanted.status == 416:
            facts.append(("Content-Range", f"bytes */{clip.size}"))
            return Reply(416, b"", headers=tuple(facts)), None
        facts.append(("Accept-Ranges", "bytes"))
        if wanted.status == 206:
            last = wanted.start + wanted.count - 1
            facts.append(("Content-Range", f"bytes {wanted.start}-{last}/{clip.size}"))
        content = Content(clip, wanted.start, wanted.count)
        return Reply(wanted.status, b"", "video/mp4", tuple(facts)), content

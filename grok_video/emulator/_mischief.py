"""Answers gone wrong: what each fault does to the answer it meets.

Takes the real answer (or none, where the fault stands in its place) and sends what the fault makes
of it. It knows no jobs; whether a create was accepted has been decided before.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import Final

from ._answers import JSON, Reply
from ._exchange import Content, Exchange, Spent
from ._faults import (
    Answer,
    CloseOnAccept,
    CutAnswer,
    CutFile,
    CutRequest,
    DeepJSON,
    EndlessHeaders,
    Fault,
    GzipBomb,
    HugeJSON,
    Refuse,
    Stall,
    WrongLength,
)

_BLOCK: Final = 1024 * 1024


async def answer(
    exchange: Exchange,
    fault: Fault | None,
    reply: Reply | None,
    content: Content | None = None,
    *,
    closing: bool = False,
) -> None:
    """Sends the real answer, or what the fault makes of it."""
    exchange.keep = exchange.keep and not closing
    match fault:
        case CutRequest(reset=reset) | CloseOnAccept(reset=reset):
            await exchange.cut(reset=reset)
        case Refuse():
            # Met by a request only when chaos chose it: too late to refuse the connection.
            await exchange.cut(reset=True)
        case Stall():
            await _stall(exchange, fault, reply, content)
        case Answer():
            exchange.log.retry_after = fault.retry_after_seconds or None
            stand_in = Reply(fault.status, fault.body, fault.content_type, fault.all_headers())
            await exchange.send(stand_in)
        case EndlessHeaders():
            await _trickle(exchange, fault)
        case HugeJSON(status=status, size=size):
            await _huge(exchange, status, size)
        case DeepJSON(status=status, depth=depth):
            await exchange.send(Reply(status, b"[" * depth + b"]" * depth))
        case GzipBomb(status=status, size=size):
            await _bomb(exchange, status, size)
        case _ if reply is None:
            raise AssertionError(f"no answer for {fault!r}")
        case CutAnswer(after=after, reset=reset):
            await _limited(exchange, after, reply, content)
            await exchange.cut(reset=reset)
        case CutFile(at=at, reset=reset) if content is not None:
            head = exchange.head(reply, reply.headers, content.count)
            await _limited(exchange, len(head) + at, reply, content)
            await exchange.cut(reset=reset)
        case WrongLength(delta=delta):
            length = len(reply.body) if content is None else content.count
            await exchange.send(reply, content=content, off=max(delta, -length))
            # Either way the next answer could not be told from the rest of this one.
            await exchange.cut(reset=False)
        case _:
            await exchange.send(reply, content=content)


async def _limited(exchange: Exchange, after: int, reply: Reply, content: Content | None) -> None:
    exchange.budget = after
    with contextlib.suppress(Spent):
        await exchange.send(reply, content=content)
    exchange.budget = None


async def _stall(
    exchange: Exchange, fault: Stall, reply: Reply | None, content: Content | None
) -> None:
    if fault.after is not None and reply is not None:
        head = exchange.head(reply, reply.headers, content.count if content else len(reply.body))
        body = content.clip.read()[content.start :][: content.count] if content else reply.body
        whole = head + body
        await exchange.write(whole[: fault.after])
        await exchange.flush()
        if not await exchange.connection.gone(fault.seconds) and fault.resume:
            await exchange.write(whole[fault.after :])
            return
    elif not await exchange.connection.gone(fault.seconds) and fault.resume and reply is not None:
        await exchange.send(reply, content=content)
        return
    await exchange.cut(reset=False)


async def _trickle(exchange: Exchange, fault: EndlessHeaders) -> None:
    exchange.status = 200
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    loop = asyncio.get_running_loop()
    deadline, number = loop.time() + fault.seconds, 0
    while loop.time() < deadline:
        await exchange.write(b"X-Padding-%d: %s\r\n" % (number, b"x" * 64))
        number += 1
        if await exchange.connection.gone(fault.interval):
            break
    await exchange.cut(reset=False)


async def _huge(exchange: Exchange, status: int, size: int) -> None:
    opening, ending = b'{"request_id": "', b'"}'
    await exchange.write(exchange.head(Reply(status, b" ", JSON), (), size))
    await exchange.write(opening[:size])
    left = size - len(opening) - len(ending)
    block = b"a" * _BLOCK
    while left > 0:
        await exchange.write(block[:left])
        left -= len(block)
    await exchange.write(ending)


async def _bomb(exchange: Exchange, status: int, size: int) -> None:
    headers = (("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked"))
    await exchange.write(exchange.head(Reply(status, b" ", JSON), headers, None))

    async def send(data: bytes) -> None:
        if data:
            await exchange.write(b"%x\r\n%s\r\n" % (len(data), data))

    squeezer = zlib.compressobj(9, zlib.DEFLATED, 31)
    await send(squeezer.compress(b'{"request_id": "'))
    block = b"a" * _BLOCK
    for start in range(0, size, _BLOCK):
        # A block costs a few milliseconds to squeeze: others are served in between.
        await asyncio.sleep(0)
        await send(squeezer.compress(block[: size - start]))
    await send(squeezer.compress(b'"}') + squeezer.flush())
    await exchange.write(b"0\r\n\r\n")

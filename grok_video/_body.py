"""The body of one create: JSON with a known length, which can be sent repeatedly.

Here stands what every create sends; a picture in its midst is opened, measured and encoded by
`_images`, which is imported with the first one. What must never happen here: reading a file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from grok_video._arguments import refuse
from grok_video._policies import NO_END
from grok_video._threads import load, load_anyio
from grok_video._wire import write_create

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeAlias

    from grok_video._images import PictureBody
    from grok_video._policies import Deadline
    from grok_video._requests import Image, VideoRequest

    CreateBody: TypeAlias = "TextBody | PictureBody"

__all__ = ["TextBody", "create_body"]


class create_body:  # noqa: N801 - a context manager, called like the function it would be
    """Open, sniff and measure the picture of a request; what comes out can be sent, repeatedly.

    Raises `InvalidRequest` on entering if the picture is missing, empty, unreadable or no JPEG,
    PNG or WebP, and `APITimeoutError` if it is not here `until` then: nothing was sent. A picture
    that changes while it is sent raises `InvalidRequest` out of `chunks()`, and stands as `failure`
    on the body: its last byte was never sent, so that no server can have accepted it. Nothing stays
    open afterwards.
    """

    __slots__ = ("_body", "_request", "_until")

    def __init__(self, request: VideoRequest, until: Deadline = NO_END) -> None:
        self._request = request
        self._until = until

    async def __aenter__(self) -> CreateBody:
        before, after = write_create(self._request)
        image = self._request.image
        if image is None:
            self._body: CreateBody = TextBody(before)
        elif image.kind == "url":
            self._body = TextBody(before + _json_text(image) + after)
        else:
            await load_anyio()
            await load("grok_video._images")
            from grok_video._images import open_body

            self._body = await open_body(before, image, after, self._until)
        return self._body

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._body.sent()
        if kind is None:
            self._body.accepted()


class TextBody:
    """A `Body` that is here as a whole, so that sending it cannot break off on this side."""

    __slots__ = ("_text", "length")

    failure: Final = None

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.length = len(text)

    def chunks(self) -> AsyncIterator[bytes]:
        """Return an iterator over the body from its beginning; each call starts over."""
        return _Once(self._text)

    def sent(self) -> None:
        """Take note that the transport has taken it, or never will: nothing is held."""

    def accepted(self) -> None:
        """Take note that a create of it was accepted: nothing is kept for another one."""

    def __repr__(self) -> str:
        return f"<body of {self.length} bytes>"


class _Once:
    """One pass over a text: an object, so that there is nothing to close where it is dropped."""

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        self._text = text

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        text, self._text = self._text, b""
        if not text:
            raise StopAsyncIteration
        return text


def _json_text(image: Image) -> bytes:
    try:
        image.source.encode()
    except UnicodeEncodeError:
        raise refuse(
            "image", image, "must be a URL that UTF-8 can hold (no lone surrogates)"
        ) from None
    return json.dumps(image.source)[1:-1].encode()

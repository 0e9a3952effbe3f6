"""Where the link of a video leads, and whether it is followed there.

Redirects are followed by hand, because each step is looked at: no step leaves https for http, and
none leads into a private network unless the API itself is in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from grok_video._errors import DownloadError
from grok_video._transports._base import NotRequestable
from grok_video._urls import Origin, names_a_user

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from grok_video._transfer import Transfer
    from grok_video._transports._base import StreamedAnswer

_REDIRECTS: Final = 5


class Followed:
    """The answer at the end of the redirects, as a context. The key is the transport's business.

    A class, because a generator for each download costs three times.
    """

    __slots__ = ("_answering", "_transfer")

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    async def __aenter__(self) -> StreamedAnswer:
        transfer = self._transfer
        url, before = transfer.url, None
        for _ in range(_REDIRECTS + 1):
            problem = refused_link(url, public_only=transfer.public_only, came_from=before)
            if problem is not None:
                problem = f"the link was not followed: {problem}"
                raise transfer.error(DownloadError, problem, url=url)
            self._answering = transfer.transport().stream(
                url, transfer.headers(), public_only=transfer.public_only
            )
            try:
                answer = await self._answering.__aenter__()
            except NotRequestable as error:
                problem = f"the link was not followed: {error.message.rstrip('.')}"
                raise transfer.error(DownloadError, problem, url=url) from None
            target = redirect_target(url, answer.status, answer.headers)
            if target is None:
                return answer
            await self._answering.__aexit__(None, None, None)
            url, before = target, url
        problem = f"the link was redirected more than {_REDIRECTS} times"
        raise transfer.error(DownloadError, problem)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._answering.__aexit__(kind, error, traceback)


def redirect_target(url: str, status: int, headers: Mapping[str, str]) -> str | None:
    """Return where a redirect leads, or None for an answer that is none."""
    location = headers.get("location")
    if status not in (301, 302, 303, 307, 308) or not location:
        return None
    try:
        return urljoin(url, location)
    except ValueError:
        return location  # no URL at all: refused for what it is


def refused_link(url: str, *, public_only: bool, came_from: str | None = None) -> str | None:
    """Return why this link is not followed, or None if it may be."""
    try:
        origin = Origin.of(url)
    except ValueError:
        return "it is not an http(s) URL"
    if not origin.can_be_resolved:
        return "its host is not a name that can be looked up"
    if names_a_user(url):
        return "it has a user name in it"
    if origin.scheme == "http" and (came_from or "")[:6].lower() == "https:":
        return "it leads from https to http"
    if public_only and origin.is_private:
        return "it leads into a private network"
    return None

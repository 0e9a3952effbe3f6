"""A request from a person's words: the options of a command, or a line of a manifest.

Words are text, and a request has numbers, pictures and where to deliver to. What is wrong with one
is refused by the request itself, with its name, value and limit.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

from grok_video._arguments import refuse
from grok_video._requests import Image, VideoRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["read_address", "read_request", "with_plain_spaces"]


def read_request(words: Mapping[str, Any], read_image: Callable[[Any], Image]) -> VideoRequest:
    """Return the request that the words mean; what is None was not given.

    Raises `InvalidRequest` as `VideoRequest` and `read_image` do.
    """
    given = {name: value for name, value in words.items() if value is not None}
    duration = given.get("duration")
    if isinstance(duration, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", duration):
        given["duration"] = int(duration)  # anything else is refused by name, value and limit
    upload_url = given.pop("upload_url", None)
    if upload_url is not None:
        given["output"] = {"upload_url": upload_url}
    if "image" in given:
        given["image"] = read_image(given["image"])
    return VideoRequest(**given)


def read_address(text: str) -> Image | None:
    """Return the picture at a URL or in a data: URI; None for what can only be a path.

    Raises `InvalidRequest` for an address of another kind.
    """
    start = text.lstrip()
    if start.lower().startswith(("http://", "https://", "data:")):
        return Image.from_url(text)
    if re.match(r"[a-z][a-z0-9+.-]*://", start, re.IGNORECASE):
        raise refuse("image", text, "must be a path, an http(s) URL or a data: URI")
    return None


def with_plain_spaces(name: str) -> str:
    """Return the name with the plain space in the place of every other one.

    A key is what a person reads, and types behind --found-id, and nobody tells spaces apart: names
    that differ in nothing else are one key, which is refused the second time.
    """
    return "".join(" " if unicodedata.category(mark) == "Zs" else mark for mark in name)

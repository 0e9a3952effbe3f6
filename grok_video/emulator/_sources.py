"""Source pictures: data URIs decoded, loopback URLs fetched, documentation hosts played.

No traffic leaves this machine: a URL that is neither on loopback nor on a host reserved for
documentation is answered as if it did not exist. What is wrong with a source is a value
(`Unusable`), because the service reports it in the poll and not in the create.
"""

from __future__ import annotations

import binascii
import hashlib
import io
import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import attrs

if TYPE_CHECKING:
    from PIL.Image import Image

INVALID: Final = "invalid_argument"

# RFC 2606 reserves these for documentation; `your-image-host` stands in the create page's own
# example, which must work with only host and key replaced.
_PLAYED: Final = ("example.com", "example.org", "example.net", "your-image-host")
_PLAYED_ENDINGS: Final = (".example", ".example.com", ".example.org", ".example.net")

_FORMATS: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_LARGEST: Final = 64 * 1024 * 1024
_REDIRECTS: Final = 3
_PATIENCE: Final = 10.0


@attrs.frozen
class Source:
    """A usable picture: its digest names it wherever it is kept."""

    digest: str
    size: tuple[int, int]
    """Width and height as a person sees it, EXIF orientation applied."""


@attrs.frozen
class Unusable:
    """Why a source cannot be used, in the service's words."""

    message: str
    code: str = INVALID


CARD: Final = Source("card", (1600, 900))


def unreachable(status: str = "HTTP 404 Not Found") -> Unusable:
    """A source that could not be downloaded; the spelling is the recorded one."""
    return Unusable(
        "Unable to download provided image_url, please make sure the url you provided is "
        f"publicaly accessible: {status}"
    )


def is_played(url: str) -> bool:
    """Whether this URL's host is reserved for documentation and answered by the test card."""
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return host in _PLAYED or host.endswith(_PLAYED_ENDINGS)


def is_loopback(url: str) -> bool:
    """Whether fetching this URL stays on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme in ("http", "https") and (
            host == "localhost" or ipaddress.ip_address(host).is_loopback
        )
    except ValueError:
        return False


def elsewhere(url: str) -> Source | Unusable | None:
    """The picture behind a URL; `None` if it has to be fetched from this machine."""
    if is_played(url):
        return CARD
    return None if is_loopback(url) else unreachable()


def read_data_uri(uri: str) -> bytes | Unusable:
    """The bytes inside a data URI."""
    head, comma, payload = uri.partition(",")
    if not comma:
        return Unusable("Unable to decode provided image_url: no comma in the data URI")
    try:
        if head.lower().endswith(";base64"):
            # Strict, and without the copy that `base64` makes of a text.
            return binascii.a2b_base64(payload, strict_mode=True)
        return unquote_to_bytes(payload)
    except (binascii.Error, ValueError):
        return Unusable("Unable to decode provided image_url: invalid base64")


def inspect(data: bytes, *, thorough: bool = True) -> Source | Unusable:
    """The picture these bytes hold, decoded once to be sure unless not `thorough`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=tuple(_FORMATS)) as picture:
            # A picture too large for Pillow's taste is refused like a broken one. Counted here, and
            # not by Pillow's warning made an error: filters of warnings are the whole process's.
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and picture.width * picture.height > most:
                return _UNREADABLE
            size = upright_size(picture)
            if thorough:
                # JPEG decodes to an eighth of its size here: enough to notice a torn file.
                picture.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))
                picture.load()
    except Exception:  # noqa: BLE001 - decoders raise whatever a torn byte leads them to
        return _UNREADABLE
    return Source(hashlib.sha256(data).hexdigest(), size)


_UNREADABLE: Final = Unusable(
    "Unable to decode provided image_url, only JPEG, PNG and WebP images are supported"
)


def orientation(picture: Image) -> int:
    """How the picture lies (EXIF 2.3, tag 0x0112); 1, upright, where its EXIF block is broken."""
    try:
        found = picture.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - as above; the picture itself may be whole
        return 1
    return found if found in range(1, 9) else 1


def upright_size(picture: Image) -> tuple[int, int]:
    """Width and height after the EXIF orientation is applied."""
    # Orientations 5 to 8 lie on their side.
    sideways = orientation(picture) >= 5
    return (picture.height, picture.width) if sideways else (picture.width, picture.height)


async def fetch(url: str) -> bytes | Unusable:
    """The bytes behind a loopback URL, redirects followed as long as they stay on loopback."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            for _ in range(_REDIRECTS + 1):
                if not is_loopback(url):
                    return unreachable()
                async with session.get(url, allow_redirects=False) as answer:
                    if 300 <= answer.status < 400 and "Location" in answer.headers:
                        url = urljoin(url, answer.headers["Location"])
                        continue
                    if answer.status != 200:
                        return unreachable(f"HTTP {answer.status} {answer.reason}")
                    data = await answer.content.read(_LARGEST + 1)
                    while len(data) <= _LARGEST and (
                        more := await answer.content.read(_LARGEST + 1 - len(data))
                    ):
                        data += more
                    return data if len(data) <= _LARGEST else unreachable("file too large")
        return unreachable("too many redirects")
    except TimeoutError:
        return unreachable("timed out")
    except (aiohttp.ClientError, OSError, ValueError):
        return unreachable("connection failed")

"""What is asked of the API: one picture, one prompt, a few settings, checked before they cost.

Constructing these values does no I/O, so it is safe inside a coroutine and cheap for a manifest of
100,000 lines. What needs a disk (does the file exist, are its bytes a picture) is checked by
`_images` in a worker thread, still before the first byte is sent.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Never, Self, TypeAlias, Union, cast

from attrs import field, frozen

from grok_video._arguments import refuse, refuse_unknown, require_one_of, require_path
from grok_video._public import Shown, publish
from grok_video._redaction import Veiled, lift, redact_url
from grok_video._urls import Origin

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["Image", "VideoRequest", "frame_size"]

DEFAULT_MODEL: Final = "grok-imagine-video-1.5"
ASPECT_RATIOS: Final = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3")
RESOLUTIONS: Final = ("480p", "720p", "1080p")
MAX_DURATION: Final = 15

AspectRatio: TypeAlias = Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"]
Resolution: TypeAlias = Literal["480p", "720p", "1080p"]
# Not with bars: two of these are names that are not known yet, and the annotations here are types.
ImageInput: TypeAlias = Union[
    "Image",
    os.PathLike[str],
    str,
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    "PIL.Image.Image",
]

#: The picture types that the create page names, by their first bytes.
_SIGNATURES: Final = (
    ("image/jpeg", b"\xff\xd8\xff", 0),
    ("image/png", b"\x89PNG\r\n\x1a\n", 0),
    ("image/webp", b"WEBP", 8),
)
IMAGE_TYPES: Final = tuple(name for name, _, _ in _SIGNATURES)
#: Characters of a data URI that are hashed at once.
_HASHED_AT_ONCE: Final = 2**18
#: Bytes that `sniff` needs: the WebP mark ends at 12.
SNIFF_LENGTH: Final = 12
_KNOWN_FOREIGN: Final = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"),
)


def sniff(head: bytes) -> str | None:
    """Return the MIME type that the first 12 bytes of a file prove, or None."""
    for mime, mark, offset in _SIGNATURES:
        if head[offset : offset + len(mark)] == mark and (
            mime != "image/webp" or head[:4] == b"RIFF"
        ):
            return mime
    return None


def require_picture(head: bytes, value: object, length: int) -> str:
    """Return the type of a picture from its first bytes, or refuse it with what it is instead."""
    if length == 0:
        raise refuse("image", value, "must not be empty (JPEG, PNG or WebP)")
    mime = sniff(head)
    if mime is None:
        foreign = next((name for mark, name in _KNOWN_FOREIGN if head.startswith(mark)), None)
        what = f"looks like {foreign}" if foreign else "has the bytes of none of them"
        raise refuse("image", value, f"must be a JPEG, PNG or WebP by its bytes, and this {what}")
    return mime


def _is_data_uri(source: object) -> bool:
    return isinstance(source, str) and source.startswith(
        tuple(f"data:{mime};base64," for mime in IMAGE_TYPES)
    )


#: How a picture can be given, whether something is that, and how it is called; see `Image`. What
#: has to be read to be known is found out before it is sent.
_KINDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "url": (lambda source: isinstance(source, str) and _is_url(source), "an http(s) URL"),
    "data": (_is_data_uri, f"a base64 data URI of type {', '.join(IMAGE_TYPES)}"),
    "path": (lambda source: isinstance(source, Path), "a pathlib.Path"),
    "bytes": (lambda source: isinstance(source, bytes | bytearray | memoryview), "bytes"),
    "file": (lambda source: hasattr(source, "read"), "an open binary file"),
    # By what it has: Pillow may not be installed.
    "pil": (lambda source: hasattr(source, "getbands"), "a Pillow image (PIL.Image.Image)"),
}


@frozen(repr=False, eq=False)
class Image:
    """A source picture, from wherever it comes; opened only when it is sent.

    `kind` says what `source` is: "url" and "data" are strings, "path" a `Path`, "bytes" the file's
    content, "file" an open binary file, "pil" a Pillow image.
    """

    kind: Literal["url", "data", "path", "bytes", "file", "pil"]
    # rich prints the fields of attrs classes by itself, whatever their `__repr__` says.
    source: Any = field(repr=False)

    def __attrs_post_init__(self) -> None:
        require_one_of("kind", self.kind, _KINDS)
        if self.kind == "bytes":
            object.__setattr__(self, "source", _own_memory(self.source))
        source, (fits, what) = self.source, _KINDS[self.kind]
        if not fits(source):
            kind = type(cast("object", source))
            shown = redact_url(source) if isinstance(source, str) else kind
            raise refuse("image", shown, f"of the kind {self.kind!r} must be {what}")
        if self.kind == "file" and _is_of_a_tar(source):
            raise refuse(
                "image",
                type(cast("object", source)),
                "must be no open member of a tar archive: who reads on in the archive moves it in "
                "the midst of an upload; pass its bytes, that is .read()",
            )

    @classmethod
    def of(cls, value: ImageInput) -> "Image":
        """Return the image that `value` means.

        A string is a URL or a data URI and is never opened as a file: a web backend passes strings
        from strangers. Raises `InvalidRequest` if the value is none of the accepted kinds.
        """
        if isinstance(value, Image):
            return value
        if isinstance(value, Veiled):
            return cls.of(lift(value))
        if isinstance(value, str):
            return cls.from_url(value)
        if isinstance(value, os.PathLike):
            return cls.from_path(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return cls.from_bytes(bytes(_own_memory(value)))
        other: Any = value
        if hasattr(value, "getbands"):
            return cls.from_pil(other)
        if hasattr(value, "read"):
            return cls.from_file(other)
        raise refuse(
            "image",
            type(value),
            "must be an Image, a path, bytes, a binary file, a PIL image, or a str that is an "
            "http(s) URL or a data: URI",
        )

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return an image that the provider fetches (http, https), or one inside a data URI.

        The address must be public: the provider downloads it, and an unreachable one fails only
        at the poll, after the create was accepted.
        """
        if not isinstance(url, str):
            raise refuse("image", type(url), "must be a str, an http(s) URL or a data: URI")
        text = url.strip()
        scheme = text[:8].lower()
        if scheme.startswith("data:"):
            # Of a picture of megabytes no copy is made.
            comma = text.find(",")
            head = text[: comma if comma >= 0 else _LONGEST_URL]
            mime = head[5:].split(";")[0].strip().lower()
            if mime == "image/jpg":
                mime = "image/jpeg"
            if mime not in IMAGE_TYPES:
                raise refuse("image", url, f"must be a data URI of type {', '.join(IMAGE_TYPES)}")
            if comma < 0 or not head.lower().rstrip().endswith(";base64"):
                raise refuse("image", url, "must be a data URI with ';base64,' before its data")
            if len(text) == comma + 1:
                raise refuse("image", url, "must be a data URI with data in it")
            plain = f"data:{mime};base64,"
            return cls("data", text if head + "," == plain else plain + text[comma + 1 :])
        if not scheme.startswith(("http://", "https://")):
            raise refuse(
                "image",
                url,
                "given as a str must be an http(s) URL or a data: URI; for a local file pass "
                "pathlib.Path(...)",
            )
        if len(text) > _LONGEST_URL:
            raise refuse("image", redact_url(text), f"must be a URL of {_AT_MOST}")
        if not _is_url(text):
            raise refuse("image", redact_url(text), "must be a whole URL with a host")
        return cls("url", text)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Self:
        """Return an image that is read from `path` when it is sent, in chunks, off the event loop.

        Whether the file exists and holds a JPEG, PNG or WebP is found out at submit, before
        anything is sent.
        """
        require_path("image", path)
        try:
            name = os.fsdecode(path)  # a scan of a folder whose name is bytes gives such
        except TypeError:
            raise refuse("image", type(path), "must be a path that is a str") from None
        return cls("path", Path(name))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return an image whose file content is `data`; its type is told from the bytes."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise refuse("image", type(data), "must be bytes, the content of a picture file")
        image = cls("bytes", data)
        content = image.source
        require_picture(bytes(content[:SNIFF_LENGTH]), content, len(content))
        return image

    @classmethod
    def from_file(cls, file: IO[bytes]) -> Self:
        """Return an image read from an open binary file, from its position when it is submitted.

        The file stays the caller's: it is not closed. One that cannot seek is read into memory. A
        call that ends before its file has answered (`timeout`, a cancellation) gives it a second,
        and may leave it to a thread that still moves it: open it anew then.
        """
        if isinstance(getattr(file, "encoding", None), str):
            raise refuse("image", file, "must be a file opened in binary mode ('rb')")
        return cls("file", file)

    @classmethod
    def from_pil(cls, image: "PIL.Image.Image") -> Self:
        """Return an image from a Pillow image: PNG if it has transparency, else JPEG quality 95.

        Encoded when it is sent, in a worker thread.
        """
        return cls("pil", image)

    def describe(self) -> str:
        """Return what may be printed of it: never the picture, never a signed query string."""
        if self.kind in ("url", "data"):
            return redact_url(self.source)
        if self.kind == "path":
            return str(self.source)
        if self.kind == "bytes":
            return f"{len(self.source)} bytes"
        return f"<{type(self.source).__name__}>"

    def __eq__(self, other: object) -> bool:
        """Compare by kind and content; open files and Pillow images are equal to themselves."""
        if not isinstance(other, Image):
            return NotImplemented
        if self.kind != other.kind or self.kind in ("file", "pil"):
            return self.source is other.source
        return bool(self.source == other.source)

    def __hash__(self) -> int:
        # Not by the bytes of a picture: they may be many, and a bytearray has no hash.
        return hash((self.kind, self.source if self.kind in ("url", "path") else None))

    def __repr__(self) -> str:
        return f"Image({self.kind}: {self.describe()})"


def _is_of_a_tar(file: object) -> bool:
    """Return whether it is what `TarFile.extractfile` gives.

    Its members and the archive have one position among them and no lock, so that pieces of other
    files could be sent, and paid for, as this one. (Those of a zip archive have a lock.)
    """
    kind = getattr(sys.modules.get("tarfile"), "ExFileObject", None)
    return kind is not None and isinstance(file, kind)


def _own_memory(view: Any) -> Any:  # noqa: ANN401 - whatever is given as bytes
    """Return what a view shows as plain bytes, from memory that its owner cannot take back.

    All else as it is.
    """
    if not isinstance(cast("object", view), memoryview):
        return view
    try:
        # One of our own: theirs may be released while the picture is sent or, worse, after.
        own = memoryview(view)
    except ValueError:
        limit = "must be a memoryview that was not released"
        raise refuse("image", memoryview, limit) from None
    try:
        return own.cast("B")
    except (TypeError, ValueError):  # with gaps, or of items that are no plain bytes
        return own.tobytes()


#: Characters of a URL at most: what servers take of a request line (nginx 8 KiB by default), and
#: few enough to be looked into without holding up the event loop.
_LONGEST_URL: Final = 8192
_AT_MOST: Final = f"at most {_LONGEST_URL} characters"
#: What no URL has: white space and control characters.
_NO_URL: Final = re.compile(r"[\s\x00-\x1f]")


def _is_url(text: str) -> bool:
    """Return whether it is an absolute http(s) URL whose host can be looked up."""
    if len(text) > _LONGEST_URL:
        return False
    try:
        return Origin.of(text).can_be_resolved and not _NO_URL.search(text)
    except ValueError:
        return False


def _optional_image(value: ImageInput | None) -> Image | None:
    return None if value is None else Image.of(value)


@frozen(init=False, eq=False, repr=False)
class VideoRequest(Shown):
    """One create, validated; only the model and what was set is sent.

    The rest is left to the server's defaults.

    `duration` is seconds, an int from 1 to 15 (the server's default is 8). `aspect_ratio` with an
    image stretches the image to it; omitted, the video has the image's own ratio. `output` may
    hold `upload_url`, a signed URL to which the provider puts the MP4. `user` is an opaque id of
    your end user. Raises `InvalidRequest` naming field, value and limit. Source: CometAPI's page on
    creating a Grok video.
    """

    prompt: str
    image: Image | None
    duration: int | None
    aspect_ratio: AspectRatio | None
    resolution: Resolution | None
    model: str
    output: Mapping[str, Any] | None = field(repr=False)
    user: str | None

    if TYPE_CHECKING:  # written by attrs, which its plugin for mypy knows and pyright does not

        def __attrs_init__(self, *values: object) -> None: ...

    def __init__(
        self,
        prompt: str,
        image: ImageInput | None = None,
        *,
        duration: int | None = None,
        aspect_ratio: AspectRatio | None = None,
        resolution: Resolution | None = None,
        model: str = DEFAULT_MODEL,
        output: Mapping[str, Any] | None = None,
        user: str | None = None,
        **unknown: Never,
    ) -> None:
        refuse_unknown(VideoRequest, unknown)
        if not isinstance(prompt, str) or not prompt.strip():
            raise refuse("prompt", prompt, "must be a str that is not blank")
        # A lone surrogate (a mangled file name, a broken emoji) has no UTF-8 form to send.
        for name, text in (("prompt", prompt), ("model", model), ("user", user)):
            if isinstance(text, str) and not _is_utf8(text):
                raise refuse(name, text, "must be text that UTF-8 can hold (no lone surrogates)")
        if duration is not None and (
            isinstance(duration, bool)
            or not isinstance(duration, int)
            or not 1 <= duration <= MAX_DURATION
        ):
            raise refuse("duration", duration, f"must be an int from 1 to {MAX_DURATION} (seconds)")
        if aspect_ratio is not None:
            require_one_of("aspect_ratio", aspect_ratio, ASPECT_RATIOS)
        if resolution is not None:
            require_one_of("resolution", resolution, RESOLUTIONS)
        if not isinstance(model, str) or not model.strip():
            raise refuse("model", model, "must be a str that is not blank")
        if user is not None and not isinstance(user, str):
            raise refuse("user", user, "must be a str")
        output = _checked_output(lift(output))
        self.__attrs_init__(
            prompt,
            _optional_image(image),
            duration,
            aspect_ratio,
            resolution,
            model,
            output,
            user,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VideoRequest):
            return NotImplemented
        return self.settings() == other.settings() and self.image == other.image

    def __hash__(self) -> int:
        return hash((self.prompt, self.model, self.duration, self.image))

    @property
    def is_delivered(self) -> bool:
        """True if the provider is to put the file at `output.upload_url` and gives no link."""
        return self.output is not None and self.output.get("upload_url") is not None

    def settings(self) -> dict[str, Any]:
        """Return the JSON fields that are sent, without the image."""
        fields = {
            "model": self.model,
            "prompt": self.prompt,
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
            "resolution": self.resolution,
            "output": dict(self.output) if self.output is not None else None,
            "user": self.user,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def fingerprint(self, content: str | None = None) -> str:
        """Return a hash that is the same for the same request, without any of its content.

        A path counts by its name, not its bytes, so that a manifest costs no disk reads; bytes and
        data URIs count by their content; open files and PIL images have no identity of their own
        and count by what they are, or by the hash of their `content` where that is given.
        """
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode())
        if self.image is not None:
            source = self.image.source
            if self.image.kind == "bytes":
                content = hashlib.sha256(source).hexdigest()
            elif self.image.kind == "data":
                content = _hash_of_text(source)
            elif self.image.kind == "url":
                content = source
            elif content is None:
                content = self.image.describe()
            digest.update(f"\0{self.image.kind}\0{content}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _hash_of_text(text: str) -> str:
    """Return the SHA-256 of a long text, without a copy of it and without holding the GIL."""
    digest = hashlib.sha256()
    for start in range(0, len(text), _HASHED_AT_ONCE):
        digest.update(text[start : start + _HASHED_AT_ONCE].encode())
    return digest.hexdigest()


def _checked_output(output: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a copy, which nobody else can change: what was checked is what is sent."""
    if output is None:
        return None
    if not isinstance(output, Mapping):
        raise refuse("output", output, "must be a mapping such as {'upload_url': 'https://...'}")
    try:
        text = json.dumps(dict(output), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError):
        raise refuse("output", type(output).__name__, "must hold only what JSON can") from None
    except RecursionError:
        limit = "must hold only what JSON can, and not be nested so deeply"
        raise refuse("output", type(output).__name__, limit) from None
    if not _is_utf8(text):
        limit = "must hold text that UTF-8 can hold (no lone surrogates)"
        raise refuse("output", type(output).__name__, limit)
    target = output.get("upload_url")
    if target is not None and not (isinstance(target, str) and _is_url(target)):
        # Redacted as the URL that it should be: its query may be a signature.
        shown = redact_url(target) if isinstance(target, str) else target
        limit = f"must hold an http(s) URL in 'upload_url', of {_AT_MOST}"
        raise refuse("output", shown, limit)
    copy: dict[str, Any] = json.loads(text)
    return copy


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def frame_size(
    resolution: Resolution = "720p", aspect_ratio: AspectRatio = "16:9"
) -> tuple[int, int]:
    """Return the intended (width, height) in pixels of a resolution and an aspect ratio.

    The short side is the resolution; the long one follows the ratio, rounded down to a multiple of
    eight (480p 16:9 is 848x480). Real files can differ by some pixels, so treat it as an
    intention. Raises `InvalidRequest` if either value is unknown.
    """
    require_one_of("resolution", resolution, RESOLUTIONS)
    require_one_of("aspect_ratio", aspect_ratio, ASPECT_RATIOS)
    short = int(resolution[:-1])
    across, down = (int(part) for part in aspect_ratio.split(":"))
    long = short * max(across, down) // min(across, down) // 8 * 8
    return (long, short) if across >= down else (short, long)


publish(globals(), __all__)

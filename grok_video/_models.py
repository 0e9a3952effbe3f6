"""What the API told us, as frozen values: one poll, one video, one failure.

Units stand beside each attribute. Nothing here reads JSON (that is `_wire`) and nothing here
waits or fetches (that is `_poller` and `_download`).
"""

import contextlib
import enum
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import field, frozen

from grok_video._public import Shown, Value, publish
from grok_video._redaction import redact_url

__all__ = ["JobFailure", "JobStatus", "Snapshot", "Video"]


class JobStatus(enum.StrEnum):
    """The five states a job can show; every word the API uses is mapped to one of them."""

    QUEUED = "queued"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """True when the job will not change any more."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.EXPIRED})


@frozen(eq=False, repr=False)
class JobFailure(Value):
    """Why a job ended without a video, in the provider's words."""

    #: The provider's code ("invalid_argument", "imagine:content-moderated"), None where none came.
    code: str | None
    #: The provider's sentence, redacted.
    message: str
    #: True when content moderation kept the video back, in any of the shapes that says so.
    moderated: bool = False
    #: What the provider charged all the same, in US dollars (moderated output is billed).
    cost_usd: Decimal | None = None
    #: True where the provider says that the job is done, and its link is what is missing: it may be
    #: billed as any video.
    rendered: bool = False


@frozen(eq=False, repr=False)
class Video(Value):
    """A finished video. The link is temporary (about a day): copy it into your own storage."""

    request_id: str
    #: Temporary link to the MP4; None when `output.upload_url` made the provider deliver it.
    # rich prints the fields of attrs classes by itself, and the query of a link is a secret.
    url: str | None = field(repr=False)
    #: Seconds, as the provider states it; None where it does not.
    duration: float | None = None
    model: str | None = None
    respect_moderation: bool | None = None
    #: What the provider charges, in US dollars; CometAPI's own price may differ.
    cost_usd: Decimal | None = None
    #: Where the file was saved; None before a download.
    path: Path | None = None
    #: The hash of the file in hexadecimal, where the download was asked for it.
    sha256: str | None = None
    #: Bytes of the file; None before a download.
    size: int | None = None

    def __repr__(self) -> str:
        where = str(self.path) if self.path else redact_url(self.url or "")
        return f"Video(request_id={self.request_id!r}, {where!r}, duration={self.duration})"

    def _repr_html_(self) -> str:
        """Show the video in a notebook: from the saved file where its server has it."""
        import html  # its table of 2,231 entities is of use to notebooks alone

        source = self._source()
        if not source.startswith(("https://", "http://", "file://", "./")):
            return f"<code>{html.escape(repr(self))}</code>"
        words = f"{self.request_id} ({self.duration or '?'} s)"
        caption = html.escape(f"{words}, {self.path}" if self.path else words)
        # One `src` and no list of sources, of which browsers do not notice that a notebook has
        # put the address of its own server in place of a relative one.
        return (
            f'<figure><video controls loop muted playsinline style="max-width:100%" '
            f'src="{html.escape(source, quote=True)}"></video>'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def _source(self) -> str:
        """Return what a browser can load from the page of a notebook, if anything."""
        if self.path is None:
            return self.url or ""
        with contextlib.suppress(OSError):  # the working directory may be gone
            folder = Path.cwd()
            for path in (Path(os.path.abspath(self.path)), self.path.resolve()):  # noqa: PTH100
                if path.is_relative_to(folder) and path.is_file():
                    # Served with the notebook, which is where its kernel works.
                    relative = path.relative_to(folder).as_posix()
                    return f"./{quote(os.fsencode(relative))}"
        # Only a page that is a file itself may load a file.
        with contextlib.suppress(OSError):
            return self.url or self.path.absolute().as_uri()
        return ""


# Compared after each poll, for which attrs' own way is the quicker one.
@frozen(repr=False)
class Snapshot(Shown):
    """One poll of one job."""

    request_id: str
    status: JobStatus
    #: Percent, 0 to 100; None where the server sent none.
    progress: float | None = None
    #: Set exactly when `status` is done.
    video: Video | None = None
    #: Set exactly when `status` is failed (or expired, where a reason or a price was given).
    error: JobFailure | None = None
    #: The document as it came, for whoever needs a key that this package does not know.
    raw: Mapping[str, Any] | None = field(default=None, repr=False, eq=False)


publish(globals(), __all__)

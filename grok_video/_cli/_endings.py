"""How a command ends: its exit code, the one line an error becomes, the command that resumes.

Every way out leads through `finish`. Once a create may have been sent, whatever is said here says
what is known of the job, because its id may be all that is left of the money.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from grok_video._cli import give_up
from grok_video._cli._console import Console, one_line
from grok_video._create import NOTHING_SENT
from grok_video._errors import (
    ConfigurationError,
    CreateOutcomeUnknown,
    DestinationError,
    GrokVideoError,
    InvalidRequest,
    JobTimeout,
    NotFound,
    wait_command,
    without_hint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from grok_video._requests import VideoRequest

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
OUTCOME_UNKNOWN: Final = 3
STILL_RUNNING: Final = 4
#: Where the last words go if the stream that is theirs takes no more, in the folder of the command.
UNHEARD: Final = "grok-video-unheard.jsonl"

#: What the library's sentences call by its Python name, and how a shell spells it.
_SPELLINGS: Final = (
    ("pass overwrite=True", "pass --overwrite"),
    ("asked for output.upload_url, pass uploaded=True", "had --upload-url, pass --uploaded"),
    ("and resolution ('720p')", "and --resolution (720p)"),
    ("pass api_key= or set", "pass --api-key-file or set"),
    ("seconds above 0, or None", "seconds above 0"),
    ("dollars, 0 or more, or None", "dollars, 0 or more"),
    ("output must hold an http(s) URL in 'upload_url'", "--upload-url must be an http(s) URL"),
)
#: Names of arguments that are no words of English, wherever they stand, and how a shell spells
#: them where dashes are not all. As parts of paths, URLs and quotations they are left alone.
_ALTERED: Final = {"found_ids": "--found-id", "max_cost_usd": "--max-cost"}
_NAMES: Final = re.compile(
    r"(?<![\w./'\"=-])(aspect_ratio|found_ids?|link_life|max_cost_usd|max_cost|max_in_flight"
    r"|poll_interval|resubmit_in_doubt|retry_failed|time_scale|upload_url)(?![\w/'\"=-]|\.\w)"
)
#: Those that are: only where a refusal begins with the argument that it refuses.
_REFUSED: Final = re.compile(
    r"(base_url|clip|duration|form|image|model|resolution|size|timeout|user) "
)


class Interrupted(Exception):
    """A signal ended the command, after everything that had to be finished was."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count: 130 for Ctrl-C."""
        return 128 + self.number


class Errand:
    """What one command has done so far, as far as money depends on it."""

    def __init__(
        self,
        console: Console,
        *,
        request_id: str | None = None,
        resume_options: Sequence[str] = (),
        out: str | None = None,
        overwrite: bool = False,
        uploaded: bool = False,
        resumable: bool = True,
    ) -> None:
        self.console = console
        #: The id of the job, as soon as it is known.
        self.request_id = request_id
        #: True from the moment a create may be sent until its answer is known.
        self.creating = False
        #: The id came with the command, and nothing here was accepted.
        self._is_given = request_id is not None
        self._create: dict[str, Any] = {}
        self._resume_options = tuple(resume_options)
        self._out = out
        self._overwrite = overwrite
        self._uploaded = uploaded
        self._resumable = resumable

    def begin(self, request: VideoRequest) -> None:
        """From now on a create may be sent; what it is known by is kept for the last words."""
        from grok_video._budget import list_price

        self.creating = True
        self._uploaded = request.is_delivered
        self._create = {
            "sent_at": moment(time.time()),
            "fingerprint": request.fingerprint(),
            "estimate_usd": float(list_price(request)),
        }

    def broken_off(self, error: BaseException) -> None:
        """Take note of what broke a create off: it may say that nothing was sent."""
        if NOTHING_SENT in getattr(error, "__notes__", ()):
            self.creating = False

    def leave_behind(self, facts: Mapping[str, Any]) -> None:
        """Write the last words to a file beside the caller, where their stream takes no more.

        Only where money depends on them. An object of --json was said on stderr as well, which
        whoever reads objects may have thrown away.
        """
        if facts["request_id"] is None and "sent_at" not in facts:
            return
        with contextlib.suppress(OSError), Path(UNHEARD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    @property
    def resume(self) -> str | None:
        """The command that takes up the job again, with the options this one was given."""
        if self.request_id is None or not self._resumable:
            return None
        told = ["--uploaded"] if self._uploaded else []
        return wait_command(self.request_id, [*self._resume_options, *told, *self._saving()])

    def _saving(self) -> list[str]:
        # Where the file cannot be put, the same words would be refused again; without them the
        # link is printed, and nothing of the caller's is replaced.
        if self._out is None:
            return []
        from grok_video import _place

        try:
            _place.check(self._out, overwrite=self._overwrite, request_id=None)
        except DestinationError:
            return []
        return ["-o", self._out, *(["--overwrite"] if self._overwrite else [])]

    def facts(self, error: BaseException) -> dict[str, Any]:
        """Return the error object of --json.

        Where a create may have been accepted, there are also those by which to find it: `sent_at`
        (UTC), `fingerprint` and `estimate_usd`.
        """
        request_id = getattr(error, "request_id", None) or self.request_id
        message = self._message(error)
        if request_id is not None:
            self.request_id = request_id
            message = without_hint(message, request_id)
            if request_id not in message:
                message = f"job {request_id}: {message}"
        create = self._doubt(error)
        if create:
            message += (
                f" Sent at {create['sent_at']}, fingerprint {create['fingerprint']}; by the list "
                f"it costs {create['estimate_usd']:g} USD."
            )
        facts = error_facts(
            type(error).__name__,
            one_line(message),
            of=error,
            request_id=request_id,
            resume=None if self._is_final(error) else self.resume,
            exit_code=self.exit_code(error),
        )
        return facts | create

    def exit_code(self, error: BaseException) -> int:
        """Return the exit code of an error that ends the command."""
        return exit_code(error)

    def _doubt(self, error: BaseException) -> dict[str, Any]:
        """Return what is known of a create whose outcome is not."""
        if isinstance(error, CreateOutcomeUnknown):
            known = {"sent_at": moment(error.sent_at), "fingerprint": error.fingerprint}
            return {**self._create, **known} if self._create else {}
        interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
        return self._create if interrupted and self.creating else {}

    def _is_final(self, error: BaseException) -> bool:
        """Return whether the same words again would only end in the same way."""
        if isinstance(error, GrokVideoError) and error.request_id and not error.resume:
            return True  # what ended without a video has nothing to resume
        if not self._is_given:
            return False
        # The API does not know that id, or was not even asked.
        unknown = isinstance(error, NotFound) and error.code != "model_not_found"
        return unknown or exit_code(error) == USAGE

    def _message(self, error: BaseException) -> str:
        if isinstance(error, GrokVideoError):
            text = in_shell_words(error.message)
            refused = _REFUSED.match(text) if exit_code(error) == USAGE else None
            return f"{_option(refused[1])} {text[refused.end() :]}" if refused else text
        if isinstance(error, BrokenPipeError):
            return "stdout was closed before the result was written."
        if isinstance(error, Interrupted | KeyboardInterrupt):
            return self._interrupted()
        if isinstance(error, OSError):
            place = f": {error.filename}" if error.filename else ""
            return f"{error.strerror or error}{place}."
        return (
            f"unexpected {type(error).__name__}: {error} (a bug in grok_video; run "
            "`python -X dev -m grok_video ...` for its traceback)"
        )

    def _interrupted(self) -> str:
        if self.request_id is not None:
            if not self._resumable:
                return f"interrupted; the emulator's job {self.request_id} ended with this command."
            return f"interrupted; job {self.request_id} goes on and may be billed."
        if self.creating:
            return (
                "interrupted before a request_id came; if the create reached the server, it may "
                "have been accepted and billed. Nothing was sent again. Look at the account's "
                "usage before sending the same request again."
            )
        return "interrupted; nothing was sent"


def error_facts(
    name: str,
    message: str,
    *,
    exit_code: int,
    of: BaseException | None = None,
    request_id: str | None = None,
    resume: str | None = None,
) -> dict[str, Any]:
    """Return the error object of --json: the same keys for every error, null where unknown.

    `http_status`, `code` and `gateway_request_id` are of the answer that refused, if one did.
    """
    return {
        "error": name,
        "message": message,
        "http_status": getattr(of, "status", None),
        "code": getattr(of, "code", None),
        "gateway_request_id": getattr(of, "gateway_request_id", None),
        "request_id": request_id,
        "resume": resume,
        "exit_code": exit_code,
    }


def moment(seconds: float) -> str:
    """Return a time as an account's usage page can be searched for it: UTC, in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_shell_words(text: str) -> str:
    """Return a sentence of the library with options in place of arguments."""
    for python, shell in _SPELLINGS:
        text = text.replace(python, shell)
    return _NAMES.sub(lambda found: _option(found[1]), text)


def _option(name: str) -> str:
    return _ALTERED.get(name) or f"--{name.replace('_', '-')}"


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error."""
    match error:
        case Interrupted():
            return error.exit_code
        case KeyboardInterrupt():
            return 130
        case InvalidRequest() | ConfigurationError():
            return USAGE
        case DestinationError(request_id=None):
            return USAGE  # refused before anything was sent or fetched
        case CreateOutcomeUnknown():
            return OUTCOME_UNKNOWN
        case JobTimeout():
            return STILL_RUNNING
        case _:
            return FAILED


def finish(errand: Errand, work: Callable[[], int]) -> int:
    """Return the exit code of `work`, after telling what went wrong; no traceback gets out."""
    try:
        return work()
    except (Exception, KeyboardInterrupt) as error:
        if sys.flags.dev_mode and not isinstance(error, GrokVideoError | Interrupted):
            raise
        if isinstance(error, BrokenPipeError):
            give_up(sys.stdout)
            errand.console.json_lines = False
        facts = errand.facts(error)
        try:
            errand.console.error(facts)
        except OSError:
            errand.leave_behind(facts)
        return errand.exit_code(error)

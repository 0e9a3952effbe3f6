"""A key and a picture that must not turn up anywhere, and everything that is searched for them.

The key has no known prefix, so that no pattern hides it; of the picture's base64 and of its bytes
no twenty characters in a row may be seen.
"""

from __future__ import annotations

import base64
import io
import logging
import pickle
import random
import re
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from PIL import Image
from rich.console import Console
from rich.traceback import Traceback

from grok_video._transports._base import causes

#: Characters in a row that count as a leak.
LEAST: Final = 20
TESTS: Final = str(Path(__file__).parents[1])


def _noise() -> bytes:
    """Return a small PNG that cannot be compressed, so that no part of it is like another."""
    file = io.BytesIO()
    Image.frombytes("RGB", (40, 30), _chance.randbytes(3600)).save(file, "PNG")
    return file.getvalue()


_chance = random.Random(20261124)
_KEY = "Kanarienvogel" + "".join(_chance.choices("abcdefghijkmnpqrstuvwxyz23456789", k=40))
_PICTURE = _noise()
_BASE64 = base64.b64encode(_PICTURE).decode()
_RUNS = re.compile(rf"[A-Za-z0-9+/]{{{LEAST},}}")
_WINDOWS = {_BASE64[n : n + LEAST] for n in range(len(_BASE64) - LEAST)}
#: As `repr` writes the bytes.
_ESCAPED = [repr(_PICTURE[n : n + 12])[2:-1] for n in range(40, len(_PICTURE) - 12, 7)]


class Canary:
    """The two secrets, in an object whose repr shows neither: tests keep no secret in a frame."""

    @property
    def key(self) -> str:
        return _KEY

    @property
    def data_uri(self) -> str:
        return f"data:image/png;base64,{_BASE64}"

    @property
    def picture(self) -> bytes:
        return _PICTURE

    def seen_in(self, text: str) -> str | None:
        """Return what stands in the text that must not, or None."""
        where = text.find(_KEY)
        if where >= 0:
            return f"the key: ...{text[max(0, where - 60) : where]}<KEY>"
        # JSON may write "/" with a backslash, a URL may write it in percent.
        plain = text.replace("\\/", "/").replace("%2F", "/").replace("%2B", "+")
        for run in _RUNS.finditer(plain):
            for start in range(len(run[0]) - LEAST + 1):
                if run[0][start : start + LEAST] in _WINDOWS:
                    before = plain[max(0, run.start() - 60) : run.start()]
                    return f"the picture's base64: ...{before}<{len(run[0])} characters>"
        if any(bytes_ in text for bytes_ in _ESCAPED):
            return "the picture's bytes"
        return None


class Watch(logging.Handler):
    """Collects every log record of every library while it is open."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.loggers: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.loggers.add(record.name)
        self.texts.append(f"{record.name}: {record.getMessage()} {record.args!r} {record.msg!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.texts += [text for _, text in texts_of(record.exc_info[1])]

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._before = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._before)


def texts_of(error: BaseException) -> Iterator[tuple[str, str]]:
    """Give every way in which an error may be shown, with its name."""
    yield "traceback", "".join(traceback.format_exception(error))
    for locals_shown in (False, True):
        yield f"rich, locals {'on' if locals_shown else 'off'}", _rich(error, locals_shown)
    for link in causes(error):
        name = type(link).__name__
        yield f"str of {name}", str(link)
        yield f"repr of {name}", repr(link)
        yield f"facts of {name}", repr(vars(link))
        for fact, value in vars(link).items():
            yield f"{fact} of {name}", f"{value!s} {value!r} {getattr(value, 'raw', '')!r}"
        yield f"pickle of {name}", pickled(link)
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename.startswith(TESTS):
                continue  # the caller's own variables are the caller's
            for local, value in frame.f_locals.items():
                shown = f"{frame.f_code.co_qualname}: {local}"
                yield f"local of {name} in {shown}", shown_as(value)


def pickled(value: Any) -> str:
    """Return a pickle as text, or nothing where a value refuses to be one."""
    try:
        return pickle.dumps(value).decode("latin-1")
    except Exception:  # noqa: BLE001 - what cannot be pickled cannot leak by it
        return ""


def shown_as(value: Any) -> str:
    """Return a repr, or nothing where it fails: a constructor's `self` is not complete yet."""
    try:
        return repr(value)
    except AttributeError:
        return ""


class _Uncoloured(Traceback):
    """As rich shows it: the colours of the source, most of the work, are not looked at here."""

    @classmethod
    def _guess_lexer(cls, filename: str, code: str) -> str:
        return "text"


def _rich(error: BaseException, locals_shown: bool) -> str:
    out = io.StringIO()
    shown = _Uncoloured.from_exception(
        type(error),
        error,
        error.__traceback__,
        show_locals=locals_shown,
        # All of a string, which is cut after 80 characters by default, and twice as much of a list.
        locals_max_string=10**6,
        locals_max_length=20,
        max_frames=1000,
        extra_lines=0,
        indent_guides=False,
        suppress=[TESTS],
        width=400,
    )
    Console(file=out, width=400, color_system=None).print(shown)
    return out.getvalue()


class Eavesdropper:
    """Another host: it takes connections, keeps what it hears and answers with a 404."""

    def __init__(self) -> None:
        self._endpoint = socket.create_server(("127.0.0.1", 0))
        self._endpoint.settimeout(0.05)
        self._over = threading.Event()
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._listen)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._endpoint.getsockname()[1]}/elsewhere"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._endpoint.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                line, _ = self._endpoint.accept()
            except TimeoutError:
                continue
            with line:
                line.settimeout(1)
                self.heard.append(line.recv(2**16))
                line.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

"""Where a command's requests go: key, base URL, polling, or the emulator inside this process.

The key comes from the environment or from a file and never from the command line, where every
user of the machine could read it in the process list.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen

from grok_video._client import AsyncClient
from grok_video._errors import ConfigurationError, InvalidRequest
from grok_video._polling import LEAST_INTERVAL, Polling
from grok_video._redaction import redact
from grok_video._settings import find_key

if TYPE_CHECKING:
    from collections.abc import Generator

#: Seconds between two polls of the embedded emulator, whose jobs take one to ten: the default
#: policy is made for jobs of a minute, and a request on loopback costs nothing.
_EMULATOR_POLLS: Final = 0.25
#: Characters of a file's name with a dot in it, at most: keys with dots in them are longer.
_LONGEST_NAME: Final = 30


@frozen
class Connection:
    """The options that say where requests go, the same for every command."""

    base_url: str | None = None
    api_key_file: str | None = None
    #: Seconds between polls; None for the policy that learns.
    poll_interval: float | None = None
    #: The API is emulated inside this process, for this one command.
    emulator: bool = False

    def key(self) -> str | None:
        """Return the key in the file that was named; None leaves it to the environment."""
        if self.api_key_file is None:
            return None
        try:
            key = Path(self.api_key_file).read_text(encoding="utf-8").strip()
            find_key(key)
        except ConfigurationError as error:
            message = error.message.replace("api_key must be", f"{self.key_place} must hold", 1)
        except OSError as error:
            message = f"{self.key_place}: {error.strerror}. Nothing was sent."
            if _may_be_the_key(self.api_key_file):
                message = (
                    f"{self.key_place} names no file. It must be a FILE that holds the key; what "
                    "it got is not shown, as it may be the key itself. Nothing was sent."
                )
        except UnicodeDecodeError:
            message = f"{self.key_place} is not a text file. Nothing was sent."
        else:
            return key
        raise ConfigurationError(message)

    @property
    def key_place(self) -> str:
        """What messages call the file of the key, never with what may be the key itself."""
        if self.api_key_file is None or _may_be_the_key(self.api_key_file):
            return "--api-key-file"
        return f"--api-key-file {redact(self.api_key_file)}"

    def resume_options(self) -> list[str]:
        """Return what another command needs in order to reach the same job."""
        options: list[str] = []
        if self.base_url is not None:
            options += ["--base-url", self.base_url]
        if self.api_key_file is not None:
            options += ["--api-key-file", self.api_key_file]
        return options

    def client(self, *, timeout: float = 60.0) -> AsyncClient:
        """Return a client; it is the caller's to close."""
        interval = self.poll_interval
        if interval is None:
            polling = Polling()
        elif LEAST_INTERVAL <= interval < 86_400:
            polling = Polling.fixed(interval)
        else:
            message = (
                "--poll-interval must be a number of seconds above 0 "
                f"({LEAST_INTERVAL:g} at least), a day at most; got {interval:g}. Nothing was sent."
            )
            raise InvalidRequest(message, field="poll_interval", value=f"{interval:g}")
        return AsyncClient(self.key(), base_url=self.base_url, timeout=timeout, polling=polling)


def _may_be_the_key(place: str) -> bool:
    """Return whether what should name the file of the key could be a key that was pasted there."""
    if os.path.exists(place):  # noqa: PTH110 - which a name of any length may be asked for
        return False
    folder = os.path.dirname(place)  # noqa: PTH120 - a text that may be no path
    if folder:  # a key in base64 has slashes as well, and they lead nowhere
        return not os.path.isdir(folder)  # noqa: PTH112 - as above, of any length
    return "." not in place or len(place) > _LONGEST_NAME


@contextlib.contextmanager
def reach(connection: Connection) -> Generator[EmulatedConnection | Connection]:
    """Give a connection that answers: the one given, or one to an emulator started for it."""
    if not connection.emulator:
        yield connection
        return
    for option, value in (
        ("--base-url", connection.base_url),
        ("--api-key-file", connection.api_key_file),
    ):
        if value is not None:
            message = f"{option} and --emulator exclude each other: the emulator brings its own."
            raise ConfigurationError(message)
    from grok_video.emulator import Emulator
    from grok_video.emulator._command import DEMO_TIME_SCALE

    emulator = Emulator(time_scale=DEMO_TIME_SCALE)
    try:
        emulator.start()
    except ModuleNotFoundError as error:
        raise ConfigurationError(str(error)) from None
    try:
        with _no_proxy():
            yield EmulatedConnection(
                base_url=emulator.base_url,
                poll_interval=connection.poll_interval or _EMULATOR_POLLS,
                emulator=True,
                emulated_key=emulator.api_key,
            )
    finally:
        emulator.stop()


@frozen
class EmulatedConnection(Connection):
    """A connection to the emulator inside this process, with the key that it made up."""

    emulated_key: str = ""

    def key(self) -> str | None:
        """Return the emulator's key."""
        return self.emulated_key


@contextlib.contextmanager
def _no_proxy() -> Generator[None]:
    """Keep requests to loopback from a proxy that HTTP_PROXY names."""
    name = "no_proxy"  # of the two spellings, the one that wins
    before = os.environ.get(name)
    os.environ[name] = "*"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before

"""Started emulators, callers of them, and pictures."""

import base64
import io
from pathlib import Path

import pytest
from wire_caller import Caller

from grok_video.emulator.pytest_plugin import (
    grok_emulator,
    grok_emulator_factory,
    grok_emulator_session_factory,
)

# Imported, so that the tests run from a checkout where no entry point is registered.
__all__ = ["grok_emulator", "grok_emulator_factory", "grok_emulator_session_factory"]

PHOTOGRAPH = Path(__file__).parents[1] / "photographs" / "rocket.jpg"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def launch(grok_emulator_factory):
    def launch(**settings):
        return Caller(grok_emulator_factory(**settings))

    return launch


@pytest.fixture(scope="session")
def tiny_clip():
    """A file to serve where its content does not matter."""
    return bytes.fromhex("0000001c6674797069736f6d00000200") + bytes(range(256)) * 400


@pytest.fixture
def still(launch, tiny_clip):
    """An emulator that serves a given file, so that nothing is rendered."""
    return launch(clip=tiny_clip)


@pytest.fixture(scope="session")
def photograph():
    return PHOTOGRAPH.read_bytes()


def data_uri(data, kind="jpeg"):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="session")
def as_data_uri():
    return data_uri


@pytest.fixture(scope="session")
def picture():
    """Makes a small picture: left half red, right half blue."""
    from PIL import Image

    def make(size=(64, 48), kind="PNG", **options):
        image = Image.new("RGB", size, "red")
        image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return make

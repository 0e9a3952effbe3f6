"""What `import grok_video` costs and promises, seen from a fresh interpreter."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import grok_video
from grok_video.emulator import Emulator
from tests.conftest import PHOTO

if TYPE_CHECKING:
    from pathlib import Path


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_none_of_the_heavy_libraries() -> None:
    heavy = ["aiohttp", "cattrs", "attr", "attrs", "anyio", "asyncio", "PIL", "httpx", "httpx2"]
    heavy += ["typer", "rich", "av", "trio", "opentelemetry", "pybase64"]
    code = f"import sys, grok_video; print([m for m in {heavy!r} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_whoever_catches_an_error_waits_for_no_library() -> None:
    loaded = run("import sys; from grok_video import GrokVideoError; print(*sys.modules)").split()
    assert not {"aiohttp", "anyio", "attr", "attrs", "cattrs"} & set(loaded)


def test_a_client_loads_nothing_that_only_some_of_its_calls_need() -> None:
    some = ["_images", "_pictures", "_base64", "_completion", "_download", "_batch", "_sync"]
    some += ["_documents"]  # all of them need it, with their first answer
    code = "import sys, grok_video; grok_video.AsyncClient('key'); print(*sys.modules)"
    loaded = run(code).split()
    assert "grok_video._session" in loaded
    assert not {f"grok_video.{name}" for name in some} & set(loaded)
    assert not {"anyio", "cattrs", "sqlite3", "PIL", "pybase64", "httpx2"} & set(loaded)


LATE = """
import asyncio, sys, threading
from grok_video import AsyncClient, Image, Polling, VideoRequest
library, transport, url, key, folder = sys.argv[1:]
seen = []
def hook(event, arguments):
    if event == "import" and threading.current_thread() is threading.main_thread():
        seen.append(arguments[0])
async def main():
    async with client:
        job = await client.submit("drift", image="https://example.com/a.jpg")
        async for _ in job.stream():
            pass
        await job.download(folder + "/a.mp4")
        picture = Image.from_path(folder + "/a.jpg")
        await client.generate("drift", picture, save_to=folder + "/b.mp4")
        async with batch:
            async for outcome in batch:
                await job.download(folder + "/c.mp4", overwrite=True)
client = AsyncClient(key, base_url=url, polling=Polling.fixed(0.05), transport=transport or None)
if library == "trio":
    import trio
# A plain function, which imports what it needs: next to nothing (see below).
requests = [VideoRequest("drift", Image.from_path(folder + "/a.jpg"))]
batch = client.batch(requests, out=folder + "/videos", ledger=folder + "/run.sqlite")
sys.addaudithook(hook)
asyncio.run(main()) if library == "asyncio" else trio.run(main)
print(*(name for name in seen if name.partition(".")[0] not in sys.stdlib_module_names))
"""


@pytest.mark.parametrize(
    ("library", "transport"), [("asyncio", ""), ("asyncio", "httpx"), ("trio", "")]
)
def test_no_call_of_a_client_imports_a_library_in_its_event_loop(
    library: str, transport: str, tmp_path: Path
) -> None:
    shutil.copy(PHOTO, tmp_path / "a.jpg")
    with Emulator(time_scale=0.01, clip=b"\0\0\0\x18ftypmp42" + bytes(1000)) as api:
        assert run(LATE, library, transport, api.base_url, api.api_key, str(tmp_path)).strip() == ""
    assert (tmp_path / "b.mp4").stat().st_size
    assert [one.stat().st_size > 0 for one in (tmp_path / "videos").iterdir()] == [True]


BURST = """
import asyncio, sys, threading
from grok_video import AsyncClient
url, key = sys.argv[1:]
class Finder:
    def find_spec(self, name, *_):
        if name == "grok_video._documents":
            print(threading.current_thread().name)
            begun.set()
            let_go.wait()
async def main():
    async with AsyncClient(key, base_url=url) as client:
        jobs = [client.submit("drift", duration=1) for _ in range(50)]
        calls = [asyncio.ensure_future(job) for job in jobs]
        await asyncio.to_thread(begun.wait)
        threads = [one.name for one in threading.enumerate()]
        print(threads.count("grok_video import"))
        let_go.set()
        print(len({(await call).request_id for call in calls}))
begun, let_go = threading.Event(), threading.Event()
sys.meta_path.insert(0, Finder())
asyncio.run(main())
"""


def test_one_thread_imports_for_all_who_wait_for_the_same() -> None:
    with Emulator(time_scale=0.01, clip=b"\0\0\0\x18ftypmp42" + bytes(1000)) as api:
        lines = run(BURST, api.base_url, api.api_key).splitlines()
    assert lines == ["grok_video import", "1", "50"]


def test_a_batch_that_was_not_entered_has_loaded_nothing_heavy() -> None:
    heavy = ("sqlite3", "grok_video._batchrun", "grok_video._download", "grok_video._ledger")
    code = (
        "import sys, grok_video\n"
        "batch = grok_video.AsyncClient('k').batch([])\n"
        f"print([m for m in {heavy!r} if m in sys.modules], batch.summary.total)"
    )
    assert run(code).strip() == "[] 0"


def test_the_emulator_package_loads_nothing_heavy_either() -> None:
    code = (
        "import sys, grok_video.emulator.pytest_plugin, grok_video.emulator\n"
        "print([m for m in ('aiohttp', 'av', 'PIL', 'cattrs') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_every_public_name_can_be_had_and_says_where_it_lives() -> None:
    for name in grok_video.__all__:
        value = getattr(grok_video, name)
        assert value.__module__ == "grok_video" or not isinstance(value, type), name


def test_the_three_lists_of_public_names_agree() -> None:
    listed = [name for names in grok_video._HOMES.values() for name in names]
    assert sorted(listed) == sorted(grok_video.__all__)
    assert len(set(listed)) == len(listed)
    assert set(grok_video.__all__) <= set(dir(grok_video))


def test_the_words_of_public_signatures_are_public() -> None:
    words = {"AspectRatio", "BatchSource", "ImageInput", "Resolution", "Transport"}
    assert words <= set(grok_video.__all__)
    code = f"import sys, grok_video\nfor name in {words!r}: getattr(grok_video, name)\n"
    heavy = ("aiohttp", "cattrs", "PIL", "httpx", "httpx2", "sqlite3")
    assert run(code + f"print([m for m in {heavy!r} if m in sys.modules])").strip() == "[]"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = grok_video.Nothing


def test_public_classes_are_pickled_by_their_public_name() -> None:
    assert pickle.loads(pickle.dumps(grok_video.JobTimeout)) is grok_video.JobTimeout
    assert b"_errors" not in pickle.dumps(grok_video.JobTimeout)

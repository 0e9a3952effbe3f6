"""Calls go their way while another thread is in the middle of importing what they also look at.

Such a module is in `sys.modules`, and has not got what its name promises. Each test is a fresh
interpreter, in which the import stands still until the call is done.
"""

from __future__ import annotations

import pytest

from tests.test_import import run

#: Stops the import of a module where it asks for one of its parts.
STOPPED = """
import asyncio, importlib.machinery, sys, threading
import grok_video
from grok_video import AsyncClient, Polling
from grok_video.emulator import Emulator, faults
class Finder:
    def find_spec(self, name, path, *_):
        if name not in before:
            return None
        # Here the import system holds a lock for all modules, and there one for this module alone.
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (before[name](), execute(module))
        return spec
def import_meanwhile(name, part):
    assert name not in sys.modules
    before[part] = lambda: (begun.set(), let_go.wait())
    threading.Thread(target=__import__, args=[name], daemon=True).start()
    begun.wait()
    assert name in sys.modules
before = {}
begun, let_go = threading.Event(), threading.Event()
sys.meta_path.insert(0, Finder())
api = Emulator(time_scale=0.01, clip=b"\\0\\0\\0\\x18ftypmp42" + bytes(1000))
api.start()
SETTINGS = {"api_key": api.api_key, "base_url": api.base_url, "polling": Polling.fixed(0.05)}
"""
END = """
let_go.set()
api.stop()
"""

BLOCKING = """
with grok_video.Client(**SETTINGS) as client:
    import_meanwhile(*NAMES)
    job = client.submit("drift", duration=1)
    print(job.result().request_id == job.request_id == api.creates[0].request_id)
"""
ASYNC = """
async def main():
    async with AsyncClient(**SETTINGS) as client:
        import_meanwhile(*NAMES)
        job = await client.submit("drift", duration=1)
        print((await job).request_id == job.request_id == api.creates[0].request_id)
asyncio.run(main())
"""


@pytest.mark.parametrize("way", [BLOCKING, ASYNC], ids=["blocking", "async"])
def test_a_job_goes_its_whole_way_while_another_thread_imports_trio(way: str) -> None:
    assert run("NAMES = 'trio', 'trio._core'\n" + STOPPED + way + END).strip() == "True"


def test_a_first_call_waits_for_an_import_that_anyio_waits_for_as_well() -> None:
    """anyio imports sniffio with its first scope."""
    later = "threading.Timer(0.3, let_go.set).start()\n"
    script = "NAMES = 'sniffio', 'sniffio._impl'\n" + STOPPED + later + BLOCKING + END
    assert run(script).strip() == "True"


def test_a_create_cancelled_while_another_thread_imports_anyio_has_its_id() -> None:
    script = """
async def main():
    async with AsyncClient(**SETTINGS) as client:
        api.script("create", [faults.Stall(0.3, resume=True)])
        create = asyncio.ensure_future(client.submit("drift", duration=1))
        while not api.creates:
            await asyncio.sleep(0.01)
        import_meanwhile("anyio", "anyio._lazyimport")
        create.cancel()
        try:
            await create
        except asyncio.CancelledError:
            print(api.creates[0].request_id in said.getvalue())
import io, logging
said = io.StringIO()
logging.basicConfig(stream=said)
asyncio.run(main())
"""
    assert run(STOPPED + script + END).strip() == "True"


def test_who_waits_for_an_import_is_told_of_its_end_while_another_is_under_way() -> None:
    script = """
before["grok_video._documents"] = lambda: import_meanwhile("trio", "trio._core")
with grok_video.Client(**SETTINGS) as client:
    print(client.submit("drift", duration=1).request_id == api.creates[0].request_id)
"""
    assert run(STOPPED + script + END).strip() == "True"


@pytest.mark.parametrize("place", ["__init__", "start"])
def test_a_signal_handler_may_use_a_client_while_a_thread_for_an_import_is_begun(
    place: str,
) -> None:
    script = """
import signal
before["grok_video._documents"] = lambda: threading.Event().wait(0.3)  # on a slow disk
client = grok_video.Client(**SETTINGS)
def handle(*_):
    job = client.submit("handler", duration=1)
    print(job.request_id in {one.request_id for one in api.creates})
signal.signal(signal.SIGUSR1, handle)
begin = getattr(threading.Thread, PLACE)
def begin_and_signal(thread, *args, **kwargs):
    begin(thread, *args, **kwargs)
    if thread.name == "grok_video import" and threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGUSR1)
setattr(threading.Thread, PLACE, begin_and_signal)
async def main():
    async with AsyncClient(**SETTINGS) as client:
        await client.submit("drift", duration=1)
asyncio.run(main())
client.close()
print(api.accepted)
"""
    assert run(f"PLACE = {place!r}\n" + STOPPED + script + END).split() == ["True", "2"]


def test_calls_that_wait_for_the_same_import_go_on_in_their_order() -> None:
    script = """
async def main():
    # One at a time, so that they come in the order in which they went.
    async with AsyncClient(**SETTINGS, limits=grok_video.Limits(connections=1)) as client:
        assert "grok_video._documents" not in sys.modules
        went = []
        async def submit(number):
            await client.submit("drift", duration=1)
            went.append(number)
        await asyncio.gather(*map(submit, range(12)))
        print(*went)
asyncio.run(main())
"""
    assert run(STOPPED + script + END).split() == [str(number) for number in range(12)]

"""The blocking client in a notebook, whose kernel runs an event loop in the same thread."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbclient
import nbformat
import pytest

from grok_video.emulator import Emulator
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP, until
from tests.processes.test_report import Page, watch

PREFACE = """
import asyncio
from grok_video import *
asyncio.get_running_loop()  # there is one: awaiting works in a notebook
client = Client({key!r}, base_url={url!r}, polling=Polling.fixed(0.05))
"""


class Notebook:
    """Cells that are run one by one, as a person does."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        resources = {"metadata": {"path": str(folder)}}
        self._book = nbformat.v4.new_notebook()
        self.client = nbclient.NotebookClient(
            self._book, timeout=60, kernel_name="python3", resources=resources
        )
        self._preface = PREFACE.format(key=emulator.api_key, url=emulator.base_url)

    def begin(self) -> None:
        self.run(self._preface)

    def run(self, source: str) -> str:
        """Run a cell and return what it prints. Raises what the cell raises."""
        cell = nbformat.v4.new_code_cell(source)
        self._book.cells.append(cell)
        self.client.execute_cell(cell, len(self._book.cells) - 1)
        return "".join(output.get("text", "") for output in cell.outputs)

    def show(self, source: str) -> str:
        """Run a cell and return the markup of what it shows."""
        self.run(source)
        [output] = self._book.cells[-1].outputs
        return output["data"]["text/html"]


@pytest.fixture
def slow(grok_emulator_factory: EmulatorFactory) -> Emulator:
    return grok_emulator_factory(time_scale=100.0, clip=CLIP)


@pytest.fixture
def notebook(slow: Emulator, tmp_path: Path) -> Iterator[Notebook]:
    made = Notebook(slow, tmp_path)
    with made.client.setup_kernel():
        made.begin()
        yield made


def test_blocking_calls_work_in_a_notebook(notebook: Notebook, slow: Emulator) -> None:
    notebook.run("job = client.submit('drift', duration=1)")
    (create,) = slow.creates
    slow.finish(create.request_id)
    assert notebook.run("print(job.result().duration)") == "1\n"
    assert notebook.run("print([j is job for j in client.as_completed([job])])") == "[True]\n"
    assert notebook.run("await asyncio.sleep(0); print(job.refresh().status)") == "done\n"
    assert notebook.run("client.close()") == ""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_saved_video_plays_in_the_page_of_its_notebook(
    grok_emulator: Emulator, tmp_path: Path
) -> None:
    notebook = Notebook(grok_emulator, tmp_path)
    with notebook.client.setup_kernel():
        notebook.begin()
        notebook.run("import os; os.mkdir('my clips'); place = 'my clips/50% #1.mp4'")
        notebook.run("video = client.generate('drift', duration=1, save_to=place)")
        shown = notebook.show("video")
        # What lies elsewhere is shown from its link, which a page can load.
        elsewhere = notebook.show("os.mkdir('deep'); os.chdir('deep'); video")
        notebook.run("client.close()")
    assert f'src="{grok_emulator.origin}/' in elsewhere
    assert "file:" not in shown + elsewhere
    # A notebook's server gives out the folder that the kernel works in.
    (tmp_path / "page.html").write_text(f'<!doctype html><link rel="icon" href="data:,">{shown}')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()

    async def look(page: Page) -> None:
        await page.tell("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/page.html")
        await page.until("document.querySelector('video')?.readyState >= 2")
        assert await page.ask("document.querySelector('video').videoWidth") > 0
        assert page.complaints == []

    try:
        watch(tmp_path, look)
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_the_stop_button_ends_the_call_and_the_notebook_goes_on(
    notebook: Notebook, slow: Emulator
) -> None:
    kernel = int(notebook.run("import os; print(os.getpid())"))
    notebook.run("job = client.submit('drift', duration=1)")
    (create,) = slow.creates

    def press_the_button() -> None:
        until(lambda: slow.polls > 1)
        os.kill(kernel, signal.SIGINT)  # what it does with a kernel on the same machine

    person = threading.Thread(target=press_the_button)
    person.start()
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        notebook.run("job.result()")
    person.join()
    assert caught.value.ename == "KeyboardInterrupt"
    assert f"grok-video wait {create.request_id}" in str(caught.value)
    slow.finish(create.request_id)
    assert notebook.run("print(job.result().duration)") == "1\n"
    assert notebook.run("client.close()") == ""

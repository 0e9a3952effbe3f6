"""The blocking client in a notebook, whose kernel runs an event loop in the same thread."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest

from grok_video.emulator import Emulator
from grok_video.emulator.pytest_plugin import EmulatorFactory
from tests.blocking.children import CLIP, until

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

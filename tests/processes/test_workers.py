"""A batch from plain code, where workers run it: a script, a thread, a Celery prefork worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from grok_video import Client, Limits, Polling, VideoRequest
from grok_video.emulator import Emulator

from ..blocking.children import PREFACE, environment, running, until

BATCH = """
requests = [(f"k{number}", VideoRequest(f"drift {number}", duration=1)) for number in range(6)]
"""

SCRIPT = (
    BATCH
    + """
with Client(**QUICK) as c:
    for outcome in c.batch(requests, out=sys.argv[-1], ledger=sys.argv[-1] + ".sqlite"):
        say(outcome.key, outcome.state, outcome.video.path.name)
"""
)

#: Broker and tasks of a worker without any server: messages are files.
TASKS = """
import os
from pathlib import Path
from celery import Celery

here = Path(os.environ["HERE"])
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(here / "queue"),
    "data_folder_out": str(here / "queue"),
    "control_folder": str(here / "control"),
}
app.conf.worker_hijack_root_logger = False
client = Client(**QUICK)
client.generate("preloaded", duration=1)  # used in the parent, before the workers are forked

@app.task
def animate(name):
    folder = here / name
    with Client(**QUICK) as c:
        found = [
            (os.getpid(), outcome.key, str(outcome.state), outcome.video.path.is_file())
            for outcome in c.batch(requests, out=folder, ledger=here / f"{name}.sqlite")
        ]
    assert client.generate(name, duration=1).duration == 1
    done = here / f"{name}.json.new"
    done.write_text(json.dumps(found))
    done.rename(here / f"{name}.json")
"""


def test_a_script_runs_a_batch(grok_emulator: Emulator, tmp_path: Path) -> None:
    script = SCRIPT.replace("sys.argv[-1]", repr(str(tmp_path / "videos")))
    with running(script, grok_emulator) as child:
        lines = child.ends_well().splitlines()
    assert sorted(lines) == [f"k{number} saved k{number}.mp4" for number in range(6)]
    assert grok_emulator.accepted == 6


def test_a_thread_runs_a_batch(grok_emulator: Emulator, tmp_path: Path) -> None:
    states: list[str] = []

    def work() -> None:
        words = {"polling": Polling.fixed(0.05), "limits": Limits(polls_per_second=None)}
        place = {"base_url": grok_emulator.base_url, "api_key": grok_emulator.api_key}
        requests = [VideoRequest(f"drift {number}", duration=1) for number in range(6)]
        with Client(**place, **words) as c:  # type: ignore[arg-type]
            for outcome in c.batch(requests, out=tmp_path):
                states.append(outcome.state)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert states == ["saved"] * 6
    assert len(list(tmp_path.glob("*.mp4"))) == 6


def test_a_celery_prefork_worker_runs_a_batch(grok_emulator: Emulator, tmp_path: Path) -> None:
    for folder in ("queue", "control"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(PREFACE + "import json\n" + BATCH + TASKS)
    env = environment(grok_emulator) | {"HERE": str(tmp_path), "PYTHONWARNINGS": ""}
    options = ["--pool=prefork", "--concurrency=2", "--loglevel=WARNING"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "--app=tasks", "worker", *options],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    names = ["one", "two", "three", "four"]
    send = f"import tasks\nfor name in {names}: tasks.animate.delay(name)\ntasks.client.close()"
    with worker:
        try:
            subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=env, check=True)
            until(lambda: all((tmp_path / f"{name}.json").exists() for name in names))
            worker.terminate()
            _, err = worker.communicate(timeout=30)
        finally:
            worker.kill()
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in names}
    for outcomes in found.values():
        assert sorted(outcome[1:] for outcome in outcomes) == [
            [f"k{number}", "saved", True] for number in range(6)
        ]
    pids = {outcome[0] for outcomes in found.values() for outcome in outcomes}
    assert worker.pid not in pids
    assert os.getpid() not in pids
    # Four batches, one video in each task besides, and one before the fork and where it was sent.
    assert grok_emulator.accepted == 4 * 6 + 4 + 2
    for word in (b"Traceback", b"nclosed", b"never retrieved", b"was destroyed"):
        assert word not in err, err.decode()

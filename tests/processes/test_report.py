"""The report in a real browser: it plays, filters by keyboard, asks nobody, and opens quickly.

Chromium is driven over its DevTools protocol, from the file as a person would open it; every
request and every complaint of the page is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from grok_video import JobFailed, ModerationRefused
from grok_video._report import write
from tests.processes.command import PATIENCE, PHOTO, environment, run
from tests.pure.test_report import DOUBTFUL, FAILED, SENT, Item, ledger_of


class Page:
    """One tab of a browser: told what to do, asked what it shows."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
                continue
            match told["method"], told["params"]:
                case "Network.requestWillBeSent", facts:
                    self.requests.append(facts["request"]["url"])
                case "Log.entryAdded", facts:
                    self.complaints.append(str(facts["entry"]))
                case "Runtime.exceptionThrown", facts:
                    self.complaints.append(str(facts["exceptionDetails"]))
                case "Runtime.consoleAPICalled", facts:
                    self.complaints.append(str(facts["args"]))
                case "Page.loadEventFired", _:
                    self._loaded.set()

    async def tell(self, method: str, **facts: object) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": facts})
        told = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in told, told
        return told["result"]

    async def start(self) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.tell(f"{domain}.enable")

    async def size(self, width: int, height: int) -> None:
        await self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    async def open(self, path: Path) -> None:
        self._loaded.clear()
        await self.tell("Page.navigate", url=path.as_uri())
        await asyncio.wait_for(self._loaded.wait(), PATIENCE)

    async def ask(self, expression: str) -> Any:
        told = await self.tell(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Return when it is so; looked at with each frame that the page draws."""
        await self.ask(
            "new Promise((done, fail) => { const end = performance.now() + 20000;"
            f"const look = () => {{ if ({expression}) done(); else if (performance.now() > end)"
            f" fail('it never came to be'); else setTimeout(look, 10); }}; look(); }})"
        )

    async def press(self, *keys: str) -> None:
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38,
                    "ArrowRight": 39, "ArrowLeft": 37}.get(key, 0)  # fmt: skip
            down: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code}
            if text:
                down["text"] = text
            await self.tell("Input.dispatchKeyEvent", type="keyDown", **down)
            await self.tell("Input.dispatchKeyEvent", type="keyUp", key=key)


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, "nox -s tests installs Chromium; here there is none"
    flags = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
             "disable-background-networking", "disable-component-update", "disable-sync",
             "mute-audio", f"user-data-dir={profile}", "remote-debugging-port=0")  # fmt: skip
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop yet
        [program, *(f"--{flag}" for flag in flags), "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        line = b""
        while b"DevTools listening on" not in line:
            line = await asyncio.to_thread(process.stderr.readline)
            assert line, "the browser ended"
        origin = "http://" + line.decode().split("ws://")[1].split("/")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{origin}/json/list") as answer:
                tabs = await answer.json(content_type=None)
            tab = next(tab for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.start()
                yield page
                page._reading.cancel()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        process.stderr.close()


def watch(folder: Path, look: Callable[[Page], Awaitable[None]]) -> None:
    """Open a browser, look, and close it again."""

    async def go() -> None:
        async with browser(folder / "profile") as page:
            await look(page)

    asyncio.run(go())


#: Every card that is drawn, and whether any of the page stands out at its side.
NARROW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
CARDS = "document.querySelectorAll('.card').length"
SHOWN = "document.querySelector('#shown').textContent"


def batch_of_everything(folder: Path) -> Path:
    """A page with every state, hostile words, and videos that play."""
    out = folder / "out"
    out.mkdir()
    clip = out / "clip #1.mp4"
    words = ("generate", "drift", "--image", str(PHOTO), "--emulator", "--duration", "2",
             "--resolution", "480p", "-o", str(clip))  # fmt: skip
    assert run(*words, env=environment()).returncode == 0
    items = [
        Item(f"good-{n}", path=str(clip), image=PHOTO, prompt=f"slow push {n}", seconds=20.0 + n)
        for n in range(9)
    ]
    items += [
        Item("remote", path=str(clip), image="https://host.invalid/a.jpg"),
        Item("bad", FAILED, image=PHOTO, error=ValueError("refused by content moderation")),
        Item("lost", DOUBTFUL, image=folder / "missing.jpg"),
        Item("going", SENT),
        Item("x</script><img src=x onerror=alert(1)>", FAILED, prompt="<b>bold</b>" * 40),
    ]
    ledger_of(out / "l.sqlite", items)
    page = folder / "report.html"
    assert run("report", str(out / "l.sqlite"), "-o", str(page), env=environment()).returncode == 0
    return page


def test_the_report_plays_filters_by_keyboard_and_asks_nobody(tmp_path: Path) -> None:
    report = batch_of_everything(tmp_path)

    async def look(page: Page) -> None:
        for width, height in ((1280, 1000), (390, 844)):
            await page.size(width, height)
            await page.open(report)
            assert await page.ask(CARDS) == 14
            assert await page.ask(NARROW)
            assert await page.ask("document.querySelectorAll('#attention .task').length") == 3
            assert await page.ask("document.querySelectorAll('svg rect').length") > 1

            # "/" is the search, and what is typed there filters.
            await page.press("/", *"push", " ", *"good-3")
            await page.until(f"{CARDS} === 1")
            assert await page.ask(SHOWN) == "1 of 14"
            # Down to the card; Enter plays it, and once more stops it.
            await page.press("ArrowDown")
            assert await page.ask("document.activeElement.className") == "card saved"
            await page.press("Enter")
            await page.until("document.querySelector('video').currentTime > 0.2")
            assert await page.ask("document.querySelector('video').videoWidth") > 0
            assert await page.ask("document.querySelector('video').controls")
            await page.press("Enter")
            await page.until("document.querySelector('video').paused")
            await page.press("Escape")
            await page.until(f"{CARDS} === 14")

            # The states are buttons: arrows go along them, Enter chooses.
            await page.ask("document.querySelector('.chip').focus()")
            await page.press("ArrowRight", "Enter")
            await page.until(f"{CARDS} === 1")
            assert await page.ask("document.querySelector('.card h3').textContent") == "lost"
            assert (
                await page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            )
            assert "--found-id lost=REQUEST_ID" in await page.ask(
                "document.querySelector('.card code').textContent"
            )
            await page.press("ArrowRight", "Enter")
            await page.until(f"{CARDS} === 2")
            assert "refused by content moderation" in await page.ask(
                "document.querySelector('#items').textContent"
            )
            await page.press("Escape", "/", *"nothing-has-this")
            await page.until("!document.querySelector('#none').hidden")
            await page.press("Escape")
            await page.until(f"{CARDS} === 14")

            # Tab reaches what there is to press, in the order in which it is seen.
            await page.ask("document.querySelector('#search').focus()")
            await page.press("Tab")
            assert await page.ask("document.activeElement.dataset.state") == "all"
            # The sources came as well: each is there, or is told in words.
            await page.ask("document.querySelector('#items').scrollIntoView()")
            await page.until("document.querySelector('.card img').naturalWidth > 0")
        assert page.complaints == []
        assert {url.partition(":")[0] for url in page.requests} <= {"file", "data"}
        assert page.requests

    watch(tmp_path, look)


def test_the_page_says_to_try_again_what_that_can_help(tmp_path: Path) -> None:
    ledger, report = tmp_path / "l.sqlite", tmp_path / "report.html"
    passing = JobFailed("the provider was busy", request_id="job-1")
    refused = ModerationRefused("refused by content moderation", request_id="job-2")
    card = "document.querySelector('[aria-label^=\"{}: \"]').textContent"
    task = "document.querySelector('#attention').textContent"

    async def look(page: Page) -> None:
        ledger_of(ledger, [Item("a", FAILED, error=passing), Item("b", FAILED, error=refused)])
        write(ledger, report)
        await page.open(report)
        assert "--retry-failed" in await page.ask(card.format("a"))
        assert "--retry-failed" not in await page.ask(card.format("b"))
        assert "--retry-failed" in await page.ask(task)
        assert "1 is not tried again: give another request" in await page.ask(task)

        ledger.unlink()
        ledger_of(ledger, [Item(f"b{n}", FAILED, error=refused) for n in range(2)])
        write(ledger, report)
        await page.open(report)
        assert "--retry-failed" not in await page.ask(task)
        assert "2 are not tried again" in await page.ask(task)
        assert page.complaints == []

    watch(tmp_path, look)


def test_times_are_told_in_minutes_of_sixty_seconds(tmp_path: Path) -> None:
    told = {9.94: "9.9 s", 9.96: "10 s", 119.4: "119 s", 119.6: "2 min 0 s", 179.7: "3 min 0 s"}
    ledger = tmp_path / "l.sqlite"
    ledger_of(ledger, [Item(f"k{n}", seconds=one) for n, one in enumerate(told)])
    write(ledger, tmp_path / "report.html")

    async def look(page: Page) -> None:
        await page.open(tmp_path / "report.html")
        for n, words in enumerate(told.values()):
            meta = f"document.querySelector('[aria-label^=\"k{n}: \"] .meta').textContent"
            assert f"took {words}0.50 USD" in await page.ask(meta)

    watch(tmp_path, look)


def test_two_thousand_items_open_in_less_than_three_seconds(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(PHOTO.read_bytes())
    items = [
        Item(f"item-{n:04}", path=str(video), image=PHOTO, prompt=f"drift {n}", seconds=30 + n % 70)
        for n in range(2000)
    ]
    ledger_of(tmp_path / "l.sqlite", items)
    report = tmp_path / "report.html"
    write(tmp_path / "l.sqlite", report)

    async def look(page: Page) -> None:
        await page.size(1280, 1000)
        await page.open(report)
        opened = await page.ask("performance.now()")
        assert await page.ask(CARDS) >= 24
        words = await page.ask("document.body.innerText")
        assert not {"null", "undefined", "NaN"} & set(words.split())
        assert opened < 3000, f"{opened:.0f} ms"
        # All of them are there for who looks for them: by words, and by going to the end.
        await page.press("/", *"item-1999")
        await page.until(f"{CARDS} === 1")
        await page.press("Escape")
        await page.until(f"{CARDS} > 1")
        end = "document.querySelector('#more').scrollIntoView()"
        await page.until(f"({end}, {CARDS} === 2000)")
        # Players are given back when they are out of sight.
        assert await page.ask("document.querySelectorAll('video[src]').length") < 60
        assert [one for one in page.complaints if "too many" in one.lower()] == []

    watch(tmp_path, look)

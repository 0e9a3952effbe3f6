# ruff: noqa: T201 - a program
"""A worker as somebody would write it: one batch over a folder of pictures; it is killed a lot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio

from grok_video import AsyncClient, Limits, Polling, Retry, VideoRequest


def requests(pictures: Path) -> Iterator[tuple[str, VideoRequest]]:
    for picture in sorted(pictures.iterdir()):
        prompt = f"push in on {picture.stem}"
        yield picture.stem, VideoRequest(prompt, picture, duration=1, resolution="480p")


async def work(given: dict[str, Any]) -> None:
    async with AsyncClient(
        given["api_key"],
        base_url=given["base_url"],
        polling=Polling.fixed(0.05),
        retry=Retry(base=0.05, cap=1.0),
        limits=Limits(polls_per_second=None),
    ) as client:
        batch = client.batch(
            requests(Path(given["pictures"])),
            out=given.get("out"),
            ledger=given["ledger"],
            max_in_flight=given["max_in_flight"],
            resubmit_in_doubt=given.get("resubmit_in_doubt", False),
            found_ids=given.get("found_ids"),
        )
        async with batch:
            print("begun", flush=True)
            async for outcome in batch:
                if given.get("copies"):
                    await anyio.Path(given["ledger"]).read_bytes()  # as who keeps a copy
                error = str(outcome.error) if outcome.error is not None else None
                print(json.dumps([outcome.key, outcome.state, error]), flush=True)
                if given.get("holds"):
                    await anyio.sleep_forever()  # with what it was told, as a slow copy would
    summary = batch.summary
    told = {"counts": dict(summary.counts), "in_doubt": summary.in_doubt, "left": summary.left}
    print(json.dumps(told | {"stopped": summary.stopped}), flush=True)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    anyio.run(work, settings, backend=settings.get("loop", "asyncio"))

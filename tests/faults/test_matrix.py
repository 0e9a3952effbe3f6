"""Every fault in every phase on every door: nothing is paid twice, nothing is lost, all of it ends.

`pytest tests/faults --whole` runs all of it; otherwise each fault meets each phase on one door,
chosen by a seed.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from grok_video import CreateOutcomeUnknown, GrokVideoError, JobError
from grok_video.emulator import Emulator

from .account import TABLE, Account, settle
from .cases import CLIP, DELIVERED, ENDED, RECOVERED, REFUSED, UNKNOWN, Case, cases, public_faults
from .doors import DOORS, Door, Hang

SEED = 20261124


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    whole = metafunc.config.getoption("--whole", default=False)
    chosen = [
        pytest.param(case, door, id=f"{case.id} [{door.name}]")
        for case, door in (everything() if whole else sample())
    ]
    metafunc.parametrize(("case", "door"), chosen)


def everything() -> list[tuple[Case, Door]]:
    return [(case, door) for case in cases() for door in DOORS.values()]


def sample() -> list[tuple[Case, Door]]:
    """Return every class of fault in every phase at least once, and half of all else."""
    chance = random.Random(SEED)
    doors = list(DOORS.values())
    seen: set[tuple[str, str]] = set()
    chosen = []
    for case in cases():
        kinds = {(case.phase, type(fault).__name__) for fault in case.script}
        door, lucky = chance.choice(doors), chance.random() < 0.5
        if lucky or not kinds <= seen:
            chosen.append((case, door))
            seen |= kinds
    return chosen


def test_nothing_is_paid_twice_or_lost(case: Case, door: Door, tmp_path: Path) -> None:
    account = run(case, door, tmp_path)
    TABLE.add(account)
    told = f"{account.ending} ({type(account.error).__name__}: {account.error})"
    assert account.problems() == [], told
    assert account.ending in case.endings, told


def test_every_fault_is_in_the_matrix_in_every_phase_that_takes_it() -> None:
    """A fault that the emulator learns has to be added here."""
    names = {type(fault).__name__ for case in cases() for fault in case.script}
    names |= {word for case in cases() for word in case.name.split()}
    assert set(public_faults()) <= names
    for phase, least in (("create", 100), ("poll", 100), ("download", 100)):
        assert sum(case.phase == phase for case in cases()) > least
    assert len({case.id for case in cases()}) == len(cases())
    kinds = {(case.phase, type(fault)) for case in cases() for fault in case.script}
    assert kinds == {(case.phase, type(fault)) for case, _ in sample() for fault in case.script}


def run(case: Case, door: Door, folder: Path) -> Account:
    """Return what one case came to: the call, and if it failed with an id, a resumed job."""
    account = Account(case.name, case.phase, door.name, planned=len(case.script))
    file = folder / "video.mp4"
    told: list[str] = []
    errors: list[BaseException] = []
    with Emulator(clip=CLIP, separate_files=True) as emulator:
        emulator.script(case.phase, case.script)  # type: ignore[arg-type]
        words: dict[str, Any] = {
            "base_url": emulator.base_url,
            "api_key": emulator.api_key,
            "timeout": case.timeout,
        }

        async def generate() -> None:
            async with door.client(**words) as client:
                await client.generate(
                    "slow push-in",
                    save_to=file,
                    timeout=30,
                    on_submitted=lambda job: told.append(job.request_id),
                )

        async def resume() -> None:
            """Go on as another process would: a new client that knows the id and nothing else."""
            async with door.client(**words) as client:
                await client.job(told[0]).download(file, timeout=30)

        try:
            _tried(door, generate, errors)
            if errors and told:
                _tried(door, resume, errors)
        except Hang:
            account.hung = 1
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None
        if errors:
            account.error = errors[0]
        settle(account, emulator, told=told, errors=errors, sha256=sha256)
    account.ending = _ending(errors, told)
    left = sorted(path.name for path in folder.iterdir())
    if left != (["video.mp4"] if sha256 else []) and account.ending in (DELIVERED, RECOVERED):
        account.notes.append(f"left behind: {left}")
    return account


def _tried(door: Door, work: Any, errors: list[BaseException]) -> None:
    try:
        door.run(work)
    except Hang:
        raise
    except BaseException as error:  # noqa: BLE001 - which ones come out is the question
        errors.append(error)


def _ending(errors: list[BaseException], told: list[str]) -> str:
    match errors:
        case []:
            return DELIVERED
        case [CreateOutcomeUnknown()]:
            return UNKNOWN
        case [GrokVideoError()] if told:
            return RECOVERED
        case [GrokVideoError()]:
            return REFUSED
        case [JobError(), JobError()]:
            return ENDED
        case _:
            return "neither"

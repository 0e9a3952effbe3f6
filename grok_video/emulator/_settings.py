"""What an emulator was asked to be: checked when it is made, so that nothing is told late.

Values only. `Emulator` takes them one by one, for the reader's sake; here they are one thing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from ._answers import FORMS, Form
from ._scripts import Chaos

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from ._jobs import Job

    ClipSource = bytes | Path | Callable[[Job], bytes | Path]

_KEY: Final = re.compile(r"[!-~]+")
_BASE_PATH: Final = re.compile(r"(/[\w.~-]+)*", re.ASCII)
# Places of the emulator's own: a base path that begins with one could never be reached.
_TAKEN: Final = ("/files", "/_emulator")


@attrs.frozen
class Settings:
    """See `Emulator` for what each of them means."""

    api_key: str | None
    port: int
    forms: Sequence[Form]
    time_scale: float
    seed: int
    link_life: float
    state: Path | None
    clip: ClipSource | None
    chaos: Chaos | None
    keep: int
    keep_jobs: int | None
    separate_files: bool
    base_path: str


def checked(
    *,
    api_key: str | None,
    port: int,
    form: Form | Sequence[Form],
    time_scale: float,
    seed: int,
    link_life: float,
    state: str | os.PathLike[str] | None,
    clip: ClipSource | None,
    chaos: Chaos | None,
    keep: int,
    keep_jobs: int | None,
    separate_files: bool,
    base_path: str,
) -> Settings:
    """The settings; a `ValueError` that names the one that cannot work, and says what can."""
    forms: tuple[Form, ...] = (form,) if isinstance(form, str) else tuple(form)
    _need(
        bool(forms) and all(one in FORMS for one in forms),
        f"form must be one or several of {', '.join(FORMS)}, not {form!r}",
    )
    _need(
        not api_key or (isinstance(api_key, str) and bool(_KEY.fullmatch(api_key))),
        "api_key must be visible ASCII characters, as it goes into a header",
    )
    _need(_whole(port, 0) and port <= 65535, f"port must be 0 to 65535, not {port!r}")
    _need(
        _seconds(time_scale) and time_scale < math.inf,
        f"time_scale must be a finite number of at least 0, not {time_scale!r}",
    )
    _need(_whole(seed, None), f"seed must be a whole number, not {seed!r}")
    seconds("link_life", link_life)
    _need(_whole(keep, 0), f"keep must be a whole number of at least 0, not {keep!r}")
    _need(
        keep_jobs is None or _whole(keep_jobs, 1),
        f"keep_jobs must be a whole number of at least 1, or None for all, not {keep_jobs!r}",
    )
    _need(
        chaos is None or callable(chaos),
        f"chaos must be a function of the phase that gives a fault or None, not {chaos!r}",
    )
    if not (clip is None or isinstance(clip, bytes | Path) or callable(clip)):
        hint = f": for a file write Path({clip!r})" if isinstance(clip, str) else ""
        raise ValueError(f"{_CLIP}, not {clip!r}{hint}")
    if isinstance(clip, Path) and not clip.is_file():
        raise ValueError(f"{_CLIP}, and {clip} is no file")
    path = "/" + base_path.strip("/") if base_path.strip("/") else ""
    _need(
        bool(_BASE_PATH.fullmatch(path)) and not f"{path}/".startswith(tuple(_slashed(_TAKEN))),
        "base_path must be a path like /grok/v1, of letters, digits and -._~ and not below "
        f"{' or '.join(_TAKEN)}, not {base_path!r}",
    )
    return Settings(
        api_key=api_key or None,
        port=port,
        forms=forms,
        time_scale=time_scale,
        seed=seed,
        link_life=link_life,
        state=None if state is None else Path(state),
        clip=clip,
        chaos=chaos,
        keep=keep,
        keep_jobs=keep_jobs,
        separate_files=separate_files,
        base_path=path,
    )


_CLIP: Final = "clip must be the bytes of a video, the Path of one, or a function of the job"


def seconds(name: str, value: float) -> None:
    """Refuses what is no length of time."""
    _need(_seconds(value), f"{name} must be a number of seconds of at least 0, not {value!r}")


def _need(holds: bool, told: str) -> None:
    if not holds:
        raise ValueError(told)


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _whole(value: object, least: int | None) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return least is None or value >= least


def _slashed(paths: Sequence[str]) -> list[str]:
    return [f"{path}/" for path in paths]

"""What all public values share: where they say they live, how they are shown and compared.

Names that say they live in the package and not in the module that holds them: tracebacks, reprs and
pickles then show `grok_video.JobTimeout`, and modules can be rearranged without breaking a pickle.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def publish(namespace: dict[str, Any], names: Iterable[str]) -> None:
    """Make the named classes and functions of a module say that they are `grok_video`'s.

    Annotations of its attrs classes that name anything of that module have to be types, not text:
    cattrs and `typing` would look for the names in the package and not find them, so such a module
    has no `annotations` import.
    """
    for name in names:
        namespace[name].__module__ = "grok_video"


# attrs writes and compiles these methods for each class anew, which is half of what a class costs:
# with the shared ones, what a program waits for beside aiohttp is shorter by a fifteenth.


class Shown:
    """Shown by its attributes, as attrs would write it; a base for attrs classes."""

    __slots__ = ()

    def __repr__(self) -> str:
        kind: Any = type(self)
        shown = (f"{name}={getattr(self, name)!r}" for name in _shown(kind))
        return f"{kind.__qualname__}({', '.join(shown)})"


class Value(Shown):
    """Compared by its attributes as well."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _content(self) == _content(other)

    def __hash__(self) -> int:
        return hash(_content(self))


def _content(value: Value) -> tuple[object, ...]:
    kind: Any = type(value)
    return tuple([getattr(value, name) for name in _compared(kind)])


@cache
def _shown(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - an attrs class
    from attrs import fields  # here: whoever catches an error needs no attrs

    return tuple(field.name for field in fields(kind) if field.repr)


@cache
def _compared(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 - an attrs class
    from attrs import fields

    return tuple(field.name for field in fields(kind) if field.eq)

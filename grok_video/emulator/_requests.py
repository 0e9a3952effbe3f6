"""What a create asks for: its body read, checked and priced as the create page says.

Pure: bytes in, an `Asked` or a `Refused` out. Only the rules of the page and of the contract's
sections 2, 4 and 5 live here; unknown fields are ignored, as the provider ignores them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal, cast

import attrs

DEFAULT_MODEL: Final = "grok-imagine-video-1.5"
DEFAULT_DURATION: Final = 8
DEFAULT_RESOLUTION: Final = "720p"
DEFAULT_RATIO: Final = "16:9"

RATIOS: Final = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3")
SHORT_SIDE: Final = {"480p": 480, "720p": 720, "1080p": 1080}

# The one listed size that is not the nearest even number (853.33): contract, section 2.
_LISTED: Final = {("480p", "16:9"): (848, 480), ("480p", "9:16"): (480, 848)}

# An image may have any shape; beyond 5:2 the frame stops following it and the picture is squeezed.
_WIDEST: Final = 2.5

# USD per second of video by resolution, and USD for the source image (contract, section 5). The
# 1.5 models have aliases; no image price is known for lite.
_OLD: Final = ({"480p": Decimal("0.05"), "720p": Decimal("0.07")}, Decimal("0.002"))
_NEW: Final = (
    {"480p": Decimal("0.08"), "720p": Decimal("0.14"), "1080p": Decimal("0.25")},
    Decimal("0.01"),
)
_LITE: Final = (
    {"480p": Decimal("0.02"), "720p": Decimal("0.03"), "1080p": Decimal("0.14")},
    Decimal(0),
)
PRICES: Final[Mapping[str, tuple[Mapping[str, Decimal], Decimal]]] = {
    "grok-imagine-video": _OLD,
    "grok-imagine-video-1.5": _NEW,
    "grok-imagine-video-1.5-preview": _NEW,
    "grok-imagine-video-1.5-2026-05-30": _NEW,
    "grok-imagine-video-1.5-lite": _LITE,
}

_SHOWN: Final = 120
# What a record keeps of a text, twice the longest prompt anybody documents, and of a nesting.
_KEPT: Final = 8192
_DEEPEST: Final = 20


@attrs.frozen
class Asked:
    """A create that will be accepted, defaults filled in."""

    prompt: str
    model: str
    image: str | None
    """The image's URL or data URI, as sent."""
    duration: int
    aspect_ratio: str | None
    """`None`: the image's own ratio, or 16:9 without an image."""
    resolution: str
    fields: Mapping[str, Any]
    """What the caller sent, for the record; a data URI is cut to its type and length."""

    @property
    def price(self) -> Decimal:
        """What the provider's list says this costs, in USD."""
        by_resolution, image = PRICES[self.model]
        return by_resolution[self.resolution] * self.duration + (image if self.image else 0)


Kind = Literal["invalid", "model", "shape", "argument"]


@attrs.frozen
class Refused:
    """A create that is answered with an error; nothing is accepted or billed."""

    kind: Kind
    """`invalid`: the gateway's 400. `model`: nothing serves it. `shape`: the provider's 422.
    `argument`: the provider's 400."""
    message: str
    param: str = ""


def read_create(body: bytes) -> Asked | Refused:
    """What this body asks for, or why the service would refuse it."""
    try:
        fields: Any = json.loads(body)
        if b"\\u" in body or b"\xed" in body:
            # Half of a surrogate pair is no character: what has one cannot be written down again.
            json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return Refused("invalid", "invalid JSON body")
    if not isinstance(fields, dict):
        return Refused("invalid", "the JSON body must be an object")
    return _check(cast("dict[str, Any]", fields))


def _check(fields: dict[str, Any]) -> Asked | Refused:
    prompt = fields.get("prompt")
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        return Refused("invalid", "prompt is required", "prompt")
    if not isinstance(prompt, str):
        return Refused("shape", f"prompt: invalid type: {_type(prompt)}, expected a string")
    for name in ("model", "size", "user"):
        if not isinstance(value := fields.get(name, ""), str | None):
            return Refused("shape", f"{name}: invalid type: {_type(value)}, expected a string")
    model = _or(fields, "model", DEFAULT_MODEL)
    if model == "":
        return Refused("invalid", "model name is required")
    if model not in PRICES:
        return Refused("model", model[:_SHOWN], "model")
    duration = _or(fields, "duration", DEFAULT_DURATION)
    if type(duration) is not int or not 1 <= duration <= 15:
        return Refused("invalid", "duration must be an integer from 1 to 15", "duration")
    ratio = _or(fields, "aspect_ratio", None)
    if ratio is not None and ratio not in RATIOS:
        text = "aspect_ratio must be one of " + ", ".join(RATIOS)
        return Refused("invalid", text, "aspect_ratio")
    resolution = _or(fields, "resolution", DEFAULT_RESOLUTION)
    if resolution not in SHORT_SIDE:
        text = "resolution must be one of " + ", ".join(SHORT_SIDE)
        return Refused("invalid", text, "resolution")
    if resolution not in PRICES[model][0]:
        return Refused("argument", f"{resolution} is not supported by the model {model}.")
    for name in ("image", "output"):
        if isinstance(wrong := _shape(fields, name), Refused):
            return wrong
    image = fields.get("image")
    return Asked(
        prompt=prompt,
        model=model,
        image=image["url"] if image else None,
        duration=duration,
        aspect_ratio=ratio,
        resolution=resolution,
        fields=_shown(fields),
    )


def _shape(fields: dict[str, Any], name: str) -> Refused | None:
    """The provider's complaint about a nested object, if it has one."""
    value: Any = fields.get(name)
    key = {"image": "url", "output": "upload_url"}[name]
    if value is None or (name == "output" and value == {}):
        return None
    if not isinstance(value, dict):
        return Refused("shape", f"{name}: invalid type: {_type(value)}, expected struct")
    inner = cast("dict[str, Any]", value).get(key)
    if inner is None or inner == "":
        return Refused("shape", f"{name}: missing field `{key}`")
    if not isinstance(inner, str):
        return Refused("shape", f"{name}.{key}: invalid type: {_type(inner)}, expected a string")
    return None


def _or(fields: Mapping[str, Any], name: str, default: Any) -> Any:  # noqa: ANN401 - JSON
    value: Any = fields.get(name)
    # Lists and objects cannot be looked up in a set of words; they are as wrong as any other.
    if isinstance(value, list | dict):
        return json.dumps(value)
    return default if value is None else value


def _type(value: object) -> str:
    match value:
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value[:_SHOWN]}"'
        case list():
            return "sequence"
        case _:
            return "map"


def is_data_uri(url: str) -> bool:
    """Whether the address is a data URI; schemes are spelled in any case (RFC 3986, 3.1)."""
    return url[:5].lower() == "data:"


def _shown(value: object, depth: int = 0) -> Any:  # noqa: ANN401 - JSON
    """The value as sent, short: records must not hold pictures, whatever their field is called."""
    if isinstance(value, str):
        if is_data_uri(value):
            return f"{value[:32].partition(',')[0]},<{len(value)} characters>"
        return value if len(value) <= _KEPT else f"{value[:_SHOWN]}...<{len(value)} characters>"
    if not isinstance(value, list | dict):
        return value
    if depth >= _DEEPEST:
        return "<deeper>"
    if isinstance(value, list):
        return [_shown(one, depth + 1) for one in cast("list[object]", value)]
    named = cast("dict[str, object]", value)
    return {name[:_KEPT]: _shown(one, depth + 1) for name, one in named.items()}


def frame_size(
    resolution: str, aspect_ratio: str | None, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Width and height of the video, both even: the short side is the resolution's number.

    Without a ratio the image's own is kept; without either it is 16:9 (contract, section 2).
    """
    short = SHORT_SIDE[resolution]
    if aspect_ratio is None and image_size is not None:
        wide, high = image_size
        share = min(max(wide / high, 1 / _WIDEST), _WIDEST)
    else:
        name = aspect_ratio or DEFAULT_RATIO
        if (resolution, name) in _LISTED:
            return _LISTED[resolution, name]
        wide, high = (int(side) for side in name.split(":"))
        share = wide / high
    long = round(short * max(share, 1 / share) / 2) * 2
    return (long, short) if share >= 1 else (short, long)

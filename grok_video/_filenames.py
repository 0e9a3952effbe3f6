"""File names made from keys: always inside one folder, on every system, never two keys one name.

Names are told apart by the letter: where a file system takes upper and lower case for the same, two
keys that differ in nothing else have one file.

A key comes from a manifest and may be anything a person can type; what it is turned into must not
lead out of the folder, be hidden, or mean a device.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

from grok_video._arguments import refuse

__all__ = ["check_template", "file_name"]

#: Bytes of a key's part at most: file systems allow 255 for the whole name, and a download adds
#: ".part.json" to it.
_LONGEST: Final = 150
_ALLOWED: Final = frozenset("-_.,+= ()")
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}
)


def check_template(template: str) -> str:
    """Return a template of file names as it is, or refuse it."""
    if not isinstance(template, str) or template.count("{key}") != 1:
        raise refuse("name", template, "must be a str with {key} in it, such as '{key}.mp4'")
    rest = template.replace("{key}", "")
    if not rest.isprintable() or any(character in '/\\:*?"<>|{}' for character in rest):
        raise refuse("name", template, "must be a plain file name: out= takes the folder")
    if template.startswith("."):
        raise refuse("name", template, "must not begin with a dot")
    return template


def file_name(template: str, key: str) -> str:
    """Return the name of the file of this key.

    A key that can be a name is one; any other is cleaned, and a hash of it is added behind "~",
    which no clean key contains.
    """
    clean = unicodedata.normalize("NFC", key)
    clean = "".join(c if c.isalnum() or c in _ALLOWED else "_" for c in clean)
    while len(clean.encode()) > _LONGEST:
        clean = clean[: len(clean) * _LONGEST // len(clean.encode())]
    clean = clean.strip(" .") or "_"
    if clean != key or clean.split(".")[0].strip().lower() in _DEVICES:
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        clean = f"{clean[: _LONGEST - 20]}~{digest}"
        if clean.split(".")[0].split("~")[0].lower() in _DEVICES:
            clean = f"_{clean}"
    return template.replace("{key}", clean)

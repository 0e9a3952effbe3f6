"""The floors of the house, as one list: a module imports only what stands above it here.

Read it from the top: that is the order in which the package can be understood.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import grok_video

PACKAGE = Path(grok_video.__file__).parent

FLOORS: list[tuple[str, list[str]]] = [
    ("the name", ["__init__"]),
    (
        "0 data",
        [
            "_public",
            "_redaction",
            "_log",
            "_urls",
            "_errors",
            "_arguments",
            "_models",
            "_requests",
            "_settings",
            "_outcomes",
            "_rawanswer",
            "_documents",
            "_refusals",
            "_wire",
        ],
    ),
    (
        "1 decisions",
        [
            "_lifecycle",
            "_policies",
            "_curve",
            "_kinds",
            "_experience",
            "_schedule",
            "_polling",
            "_budget",
            "_gate",
            "_filenames",
        ],
    ),
    (
        "2 edges",
        [
            "_transports.__init__",
            "_transports._base",
            "_transports._proxies",
            "_transports._loops",
            "_transports._looplocal",
            "_tracing",
            "_threads",
            "_fingerprints",
            "_lifetime",
            "_handover",
            "_owntask",
            "_sources",
            "_slots",
            "_turns",
            "_transports._debuglog",
            "_transports._aiohttperrors",
            "_transports._aiohttpconnectors",
            "_transports._aiohttptimeouts",
            "_transports._aiohttpfiles",
            "_transports._aiohttp",
            "_transports._httpxlines",
            "_transports._httpxtrace",
            "_transports._httpx",
            "_base64",
            "_pictures",
            "_openfiles",
            "_images",
            "_body",
            "_manifest",
            "_ranges",
            "_disk",
            "_partrecord",
            "_destination",
            "_place",
            "_partfile",
            "_redirects",
            "_transfer",
            "_download",
            "_lockfile",
            "_database",
            "_ledgersql",
            "_ledgerversions",
            "_ledgerlog",
            "_ledgerfile",
            "_entry",
            "_ledger",
        ],
    ),
    (
        "3 clients",
        [
            "_create",
            "_attempts",
            "_session",
            "_jobends",
            "_poller",
            "_job",
            "_start",
            "_completion",
            "_verdicts",
            "_earlier",
            "_batchsettings",
            "_course",
            "_sending",
            "_item",
            "_batchrun",
            "_batch",
            "_clientsettings",
            "_client",
        ],
    ),
    ("4 blocking", ["_fork", "_fresh", "_crossing", "_portal", "_twins", "_sync", "_codegen"]),
    ("5 doors", ["_report._reading", "_report.__init__", "_cli", "__main__"]),
]
ORDER = {module: number for number, module in enumerate(m for _, ms in FLOORS for m in ms)}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "emulator":
            found[".".join(parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports when it runs, at any depth."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            # What only type checkers see may point anywhere.
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names if alias.name.startswith("grok_video"))

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            if node.module and node.module.split(".")[0] == "grok_video":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}".removeprefix("grok_video.")
                    found.add(f"grok_video.{inner}" if is_module(inner) else node.module)

    Visitor().visit(ast.parse(path.read_text()))
    return {name.removeprefix("grok_video").removeprefix(".") or "__init__" for name in found}


def is_module(dotted: str) -> bool:
    place = PACKAGE.joinpath(*dotted.split("."))
    return place.with_suffix(".py").exists() or place.is_dir()


def test_every_module_has_a_floor() -> None:
    named = {_root(name) for name in modules()}
    assert named == {_root(name) for name in ORDER}


@pytest.mark.parametrize("name", modules())
def test_imports_only_point_down(name: str) -> None:
    if name == "_codegen":
        return  # reads the classes as text; it is not in the wheel
    too_high = [
        other
        for other in imports(modules()[name])
        if not other.startswith("emulator")
        and _root(other) != _root(name)
        and ORDER[_key(other)] > ORDER[_key(name)]
    ]
    assert too_high == [], f"{name} reaches up to {too_high}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "emulator").rglob("*.py")), ids=lambda p: p.stem)
def test_the_emulator_imports_nothing_of_the_sdk(path: Path) -> None:
    assert {name for name in imports(path) if not name.startswith("emulator")} == set()


@pytest.mark.parametrize("name", [name for name in modules() if name.split(".")[0] != "_cli"])
def test_only_the_command_line_starts_the_emulator(name: str) -> None:
    assert {other for other in imports(modules()[name]) if other.startswith("emulator")} == set()


def _root(name: str) -> str:
    return "_cli" if name.split(".")[0] == "_cli" else name


def _key(name: str) -> str:
    name = _root(name)
    return name if name in ORDER else f"{name}.__init__"

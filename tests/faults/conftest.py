"""The option for the whole matrix, and the table at the end of a run."""

from __future__ import annotations

import pytest

from .account import TABLE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole",
        action="store_true",
        help="run every case of tests/faults on every door, not the seeded sample",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = TABLE.text()
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)

"""Every command of the project, each fact once; the README and .ci/run call nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
#: Read from the classifiers, so that a new Python is added in one place.
PYTHONS = nox.project.python_versions(PYPROJECT)


def _find_pyenv_pythons() -> None:
    """Let nox see the interpreters that pyenv keeps but does not put on the path."""
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)  # noqa: S603
    for python in PYTHONS:
        for found in sorted(Path(root.stdout.strip()).glob(f"versions/{python}.*/bin")):
            os.environ["PATH"] += os.pathsep + str(found)


_find_pyenv_pythons()


def _install(session: nox.Session, *groups: str) -> None:
    session.install("-e", ".[all]", *nox.project.dependency_groups(PYPROJECT, *groups))


def _need_browser(session: nox.Session) -> None:
    """Install Chromium where a package manager can: the videos are played in a real browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if any(shutil.which(name) for name in names):
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        session.error(f"the browser tests need one of {', '.join(names)}; please install it")
    session.run("apt-get", "update", "-qq", external=True, silent=True)
    session.run("apt-get", "install", "-y", "-qq", "chromium", external=True, silent=True)


@nox.session
def demo(session: nox.Session) -> None:
    """Turn a photograph into a video through the embedded emulator: no key, no network."""
    session.install("-e", ".[cli,emulator]")
    session.run("python", "tests/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the whole suite on the Python that runs nox."""
    _need_browser(session)
    _install(session, "tests")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """Run the whole suite on every Python that is promised."""
    _need_browser(session)
    _install(session, "tests")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests of connections and event loops on the oldest libraries that are allowed."""
    _install(session, "tests")
    project = PYPROJECT["project"]
    allowed = [*project["dependencies"], *project["optional-dependencies"]["trio"]]
    # Without anyio, which also brings the plugin that runs the tests: that has to be a newer one.
    oldest = [one.replace(">=", "==") for one in allowed if not one.startswith("anyio")]
    session.install(*oldest)
    depending = ["tests/transports", "tests/emulated/test_loops.py"]
    depending += [f"tests/emulated/test_{name}uploads.py" for name in ("", "slow_")]
    session.run("python", "-m", "pytest", *depending, *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check the package and tests/typing with mypy strict and pyright strict."""
    _install(session, "types")
    session.run("mypy")
    session.run("pyright")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; `-- --fix` mends what can be mended."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
    else:
        session.run("ruff", "check", ".")
        session.run("ruff", "format", "--check", ".")


@nox.session
def facade(session: nox.Session) -> None:
    """Write the blocking twin from the asynchronous classes; `-- --check` only compares."""
    session.install("-e", ".", *nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("python", "-m", "grok_video._codegen", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Run all faults, cuts of a download and damaged answers; the suite runs a sample."""
    _install(session, "tests")
    session.run("python", "-m", "pytest", "tests/faults", "--whole", *session.posargs)
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/downloads/test_resume.py",
        "-k",
        "cut_anywhere",
        env={"GROK_VIDEO_ALL_CUTS": "1"},
    )
    fuzz = "tests/pure/test_wire_fuzz.py"
    session.run("python", "-m", "pytest", fuzz, "--hypothesis-profile", "whole")


@nox.session
def kills(session: nox.Session) -> None:
    """Kill a batch of 2,000 thirty times, and its server three times; compare the books."""
    _install(session, "tests")
    words = session.posargs or [
        *("--items", "2000", "--kills", "30", "--forced", "12"),
        *("--server-kills", "3", "--storm", "60"),
    ]
    session.run("python", "-m", "tests.processes.kills", *words)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; `-- --save NAME` keeps the figures, `-- --compare NAME` shows changes."""
    _install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and run the suite against it, with the sources out of sight."""
    _need_browser(session)
    session.install("build")
    out = Path(session.create_tmp()).resolve() / "wheel"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), silent=True)
    (built,) = out.glob("*.whl")
    session.install(
        f"{built}[all]", "--force-reinstall", *nox.project.dependency_groups(PYPROJECT, "tests")
    )
    # A copy of the tests alone: `import grok_video` can then only mean the installed wheel.
    shutil.rmtree(out / "tests", ignore_errors=True)
    shutil.copytree("tests", out / "tests")
    for name in ("pyproject.toml", "README.md", "noxfile.py", "CHANGELOG.md"):
        shutil.copy(name, out)
    for name in ("benchmarks", ".ci"):
        shutil.copytree(name, out / name, dirs_exist_ok=True)
    session.chdir(out)
    # What writes the twin is no part of the wheel, and these are about the sources.
    names = ("twins/test_codegen", "test_floors", "emulator/test_emulator_imports")
    of_sources = [f"--ignore=tests/{name}.py" for name in names]
    session.run("python", "-m", "pytest", *of_sources, *session.posargs)

"""Setting a converter up: a clone at its commit, a virtual environment of its own, and what lies in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .peer import Installed, Peer


class NotInstalled(Exception):
    """A converter could not be set up; the message is the reason that the table shows."""


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise NotInstalled(f"{Path(command[0]).name}: {lines[-1].strip() if lines else done.returncode}")
    return done.stdout


def clone_at(peer: Peer, folder: Path, origin: str) -> Path:
    """A clone of ``origin`` (address or local folder) with the peer's commit checked out."""
    clone = folder / "clone"
    if not clone.exists():
        _run("git", "clone", "--quiet", "--no-checkout", origin, str(clone))
    _run("git", "-C", str(clone), "checkout", "--quiet", "--detach", peer.commit)
    return clone


def install(peer: Peer, folder: Path, origin: str | None, pins: dict[str, str]) -> Installed:
    """Clone and environment below ``folder``; what is there already is used again.

    origin: local clone to take instead of GitHub's.
    pins: versions of packages that must be the same for everybody, such as torch.

    Raises:
        NotInstalled: with the last line of what failed.
    """
    home = folder / peer.name
    home.mkdir(parents=True, exist_ok=True)
    clone = clone_at(peer, home, origin or f"https://github.com/{peer.repository}.git")
    wanted = [f"{name}=={pins[name]}" if name in pins else name for name in ("torch", *peer.requirements)]
    return Installed(environment(home, wanted), clone, home)


def environment(home: Path, packages: Sequence[str]) -> Path:
    """The interpreter of a virtual environment below ``home`` with these packages.

    Raises:
        NotInstalled: with the last line of what failed.
    """
    python = home / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        home.mkdir(parents=True, exist_ok=True)
        _run(sys.executable, "-m", "venv", str(home / "venv"))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return python


def version_of(python: Path, package: str) -> str | None:
    """Version of a package in an environment; None where there is none."""
    code = (
        "import importlib.metadata as m, sys\ntry: print(m.version(sys.argv[1]))\nexcept m.PackageNotFoundError: pass"
    )
    return _run(str(python), "-c", code, package).strip() or None

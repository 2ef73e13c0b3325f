"""Reading the text of a file without blocking, except for a pipe that another process writes."""

from __future__ import annotations

import codecs
import errno
import os
import select
import stat
from typing import Final

from moongate.sources.file_states import Unreadable

PIPE_PATIENCE_S: Final = 2.0
"""Seconds to wait until a process writes into a named pipe."""

_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_CHUNK: Final = 1 << 20
_PACKED: Final = ((b"\x1f\x8b", "compressed with gzip"), (b"PK\x03\x04", "a zip archive"))
"""How files begin that hold others, and what they are."""


def file_text(path: str, *, pipes: bool = False) -> str | Unreadable | None:
    """The text of a file; None if it does not exist.

    Args:
        path: the path of a regular file. Reading a pipe may block, and a device may have no end.
        pipes: whether a pipe is read, until its writer closes it.
    """
    try:
        # Without O_NONBLOCK, opening a pipe blocks until there is a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # noqa: PTH114
            there = os.readlink(path)  # noqa: PTH115
            return Unreadable(
                f"It is a symbolic link to {there}, which does not exist; correct the link, or remove it."
            )
        return None
    except OSError as error:
        return _unreadable(error)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return decoded(_content(fd, status.st_size))
        if stat.S_ISDIR(status.st_mode):
            return None
        if pipes and stat.S_ISFIFO(status.st_mode):
            return _pipe_text(fd)
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "of an unknown kind")
        return Unreadable(f"It is {kind}; only regular files are read.", text="")
    except OSError as error:
        return _unreadable(error)
    finally:
        os.close(fd)


def decoded(data: bytes) -> str | Unreadable:
    """The bytes of a file as text: in UTF-8, or in UTF-16 with a byte order mark, as in YAML."""
    for magic, what in _PACKED:
        if data.startswith(magic):
            return Unreadable(f"It is {what}; unpack it.")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # PowerShell writes so.
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            return Unreadable("It begins as UTF-16 and does not go on so; save the file as UTF-8.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        return Unreadable(
            f"The byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8.",
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
            data.decode(errors="replace"),
        )


def _content(fd: int, size: int) -> bytes:
    data = os.read(fd, size + 1)
    # If the file grows during reading, it is read to its end.
    while len(data) > size and (more := os.read(fd, _CHUNK)):
        data += more
    return data


def _pipe_text(fd: int) -> str | Unreadable:
    wait = select.poll()
    wait.register(fd, select.POLLIN)
    if not wait.poll(1000 * PIPE_PATIENCE_S):
        try:
            if not os.read(fd, 1):
                return Unreadable("It is a named pipe, and nobody writes into it.", text="")
        except BlockingIOError:
            pass  # A process has opened it, but has written nothing yet.
    os.set_blocking(fd, True)
    data = b""
    while more := os.read(fd, _CHUNK):
        data += more
    return decoded(data)


def _unreadable(error: OSError) -> Unreadable:
    return Unreadable(f"The file cannot be read: {reason(error)}.")


def reason(error: OSError) -> str:
    """Why something cannot be read, and what to do, as the end of a sentence."""
    remedy = _REMEDIES.get(error.errno or 0, "")
    return (error.strerror or str(error)).lower() + (f"; {remedy}" if remedy else "")


_REMEDIES: Final = {
    errno.EACCES: "the user that runs moongate needs the right to read it",
    errno.ELOOP: "links lead to each other; remove one of them",
}

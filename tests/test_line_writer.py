"""Lines that are written beside the event loop."""

from __future__ import annotations

import os
import threading

import pytest

from moongate.line_writer import LineWriter


def marked(lines: bytes, dropped: int, _last: bool) -> tuple[bytes, bool]:
    return lines + (b"and %d\n" % dropped if dropped else b""), False


def test_a_gap_stands_where_the_lines_are_missing() -> None:
    """Once one is dropped, so are all until there is room: what comes later is not before them."""
    reader, writer = os.pipe()
    big = b"x" * (1 << 20) + b"\n"
    with os.fdopen(reader, "rb") as out, LineWriter(writer, "test", marked) as lines:
        for _ in range(5):
            lines.write(big)
        lines.write(b"small enough\n")
        dropped = lines.dropped
        while (line := out.readline()) == big:
            pass
        lines.write(b"later\n")
        later = out.readline()
    os.close(writer)

    assert line == b"and %d\n" % dropped
    assert dropped >= 2
    assert later == b"later\n"


def test_the_end_does_not_wait_for_who_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moongate.line_writer.CLOSE_WITHIN_S", 0.01)
    reader, writer = os.pipe()
    with LineWriter(writer, "test", marked) as lines:
        lines.write(b"x" * (1 << 20) + b"\n")
    os.close(reader)

    assert threading.current_thread().is_alive(), "it came so far"


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    """A terminal may be so, as whoever started us left it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    content = b"x" * (1 << 20) + b"\n"
    with os.fdopen(reader, "rb") as out, LineWriter(writer, "test", marked) as lines:
        lines.write(content)

        assert out.readline() == content
    os.close(writer)


def test_a_full_disk_is_written_to_again_when_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost meanwhile is counted, and nothing is written for others that are lost."""
    monkeypatch.setattr("moongate.line_writer.AGAIN_AFTER_S", 0.01)
    fd = os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as out, LineWriter(fd, "test", marked) as lines:
        lines.write(b"one\ntwo\n")
        while not lines.dropped:
            pass
        os.dup2(writer, fd)
        assert out.readline() == b"and 2\n"

        lines.write(b"three\n")
        assert out.readline() == b"three\n"
    os.close(fd)
    os.close(writer)

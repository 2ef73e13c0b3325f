from __future__ import annotations

import platform

import pytest

from tests.cli.conftest import Command


@pytest.mark.envoy
def test_all_three_versions_are_printed(command: Command) -> None:
    ended = command("version")

    names, versions = zip(*(line.split() for line in ended.out.splitlines()), strict=True)
    assert ended.code == 0
    assert names == ("moongate", "Envoy", "Python")
    assert versions[1].startswith("1.")
    assert versions[2] == platform.python_version()


def test_an_envoy_that_is_not_there_is_reported(command: Command) -> None:
    ended = command("version", "--envoy", "/nowhere/envoy")

    assert ended.code == 1
    assert "'/nowhere/envoy' does not exist" in ended.err

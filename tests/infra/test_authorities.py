"""Where the certificates of the system are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.infra.authorities import VARIABLE, authorities_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "own.pem")

    assert authorities_file() == str(tmp_path / "own.pem")


def test_it_is_the_first_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    first, second = (str(tmp_path / name) for name in ("debian.pem", "fedora.pem"))
    assert authorities_file((first, second)) == first

    (tmp_path / "fedora.pem").write_text("")

    assert authorities_file((first, second)) == second

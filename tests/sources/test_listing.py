from __future__ import annotations

import os
from pathlib import Path

import pytest

from moongate.sources.listing import MOST_NESTED, list_paths


@pytest.mark.parametrize("mode", [0o000, 0o311])
def test_a_folder_that_cannot_be_read_is_a_fault_and_the_others_are_read(mine: Path, mode: int) -> None:
    """Who validates it must not hear that nothing is wrong."""
    for name in ("closed", "open"):
        (mine / name).mkdir()
        (mine / name / "a.yaml").touch()
    (mine / "closed").chmod(mode)

    listing = list_paths([str(mine)])
    (mine / "closed").chmod(0o700)

    assert set(listing.files) == {str(mine / "open" / "a.yaml")}
    [fault] = listing.diagnostics()
    assert (fault.place.file, fault.severity) == (str(mine / "closed"), "error")
    assert "permission denied" in fault.problem.message
    assert str(mine / "closed") not in listing.watched, "the kernel would refuse to"


def test_what_cannot_be_seen_any_more_is_not_gone(mine: Path) -> None:
    (mine / "closed" / "deeper").mkdir(parents=True)
    (mine / "closed" / "deeper" / "a.yaml").touch()
    before = list_paths([str(mine)])
    (mine / "closed").chmod(0)

    after = list_paths([str(mine)])
    after.keep(before)
    (mine / "closed").chmod(0o700)

    assert after.files == before.files


def test_a_path_in_a_folder_that_cannot_be_read_is_not_missing(mine: Path) -> None:
    """Its manifests stay in force, so it must not be said that there are none."""
    (mine / "closed" / "m").mkdir(parents=True)
    (mine / "closed" / "m" / "a.yaml").touch()
    before = list_paths([str(mine / "closed" / "m")])
    (mine / "closed").chmod(0)

    after = list_paths([str(mine / "closed" / "m")])
    after.keep(before)
    (mine / "closed").chmod(0o700)

    assert after.files == before.files
    [fault] = after.diagnostics()
    assert "permission denied" in fault.problem.message


def test_folders_are_read_to_a_depth_and_no_deeper(tmp_path: Path) -> None:
    """A tree without end must neither stop a run nor end it."""
    folder = tmp_path
    for _ in range(MOST_NESTED + 2):
        (folder / "a.yaml").touch()
        folder /= "d"
        folder.mkdir()

    listing = list_paths([str(tmp_path)])

    assert len(listing.files) == MOST_NESTED
    [fault] = listing.diagnostics()
    assert fault.problem.message == (
        f"Folders are read {MOST_NESTED} deep; this one is deeper, so move it up, or remove it."
    )
    assert fault.place.file.count("/d") == MOST_NESTED


def test_a_folder_that_is_too_long_a_path_is_a_fault(tmp_path: Path) -> None:
    """The kernel takes 4,096 bytes, and a tree can be deeper than that."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    try:
        for _ in range(20):
            Path("d" * 250).mkdir()
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
        os.close(here)

    [fault] = list_paths([str(tmp_path)]).diagnostics()

    assert "file name too long" in fault.problem.message


def test_what_somebody_may_expect_to_be_read_is_said(tmp_path: Path) -> None:
    """Endings in capital letters, and links that lead nowhere; but no backups of editors."""
    (tmp_path / "a.YAML").touch()
    (tmp_path / "b.yaml~").touch()
    (tmp_path / "shared").symlink_to("nowhere")
    (tmp_path / "self.yaml").symlink_to("self.yaml")
    (tmp_path / "loop").symlink_to("loop")

    listing = list_paths([str(tmp_path)])

    assert listing.passed == {
        f"{tmp_path}/a.YAML": "The file is not read: its name must end in .yaml, in small letters.",
        f"{tmp_path}/loop": "It is a symbolic link that leads nowhere (loop), so it is not read.",
        f"{tmp_path}/shared": "It is a symbolic link that leads nowhere (nowhere), so it is not read.",
    }
    assert list(listing.files) == [f"{tmp_path}/self.yaml"], "who reads it says why it cannot be read"


def test_files_are_read_in_the_folders_of_the_user_and_not_in_those_around(tmp_path: Path) -> None:
    """The folder around is watched only to notice that one of the user is replaced."""
    (tmp_path / "a.yaml").touch()
    (tmp_path / "shop" / "sub").mkdir(parents=True)
    shop = tmp_path / "shop"

    assert list_paths([str(shop)]).watched == {
        str(tmp_path): False,
        str(shop): True,
        str(shop / "sub"): True,
    }
    assert list_paths([str(tmp_path / "a.yaml")]).watched == {str(tmp_path): True}
    assert list_paths([str(shop / "sub" / "missing.yaml")]).watched == {str(shop / "sub"): True}


def test_what_is_written_matters_where_it_may_be_read(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "named").touch()
    (tmp_path / "target").touch()
    (tmp_path / "shop" / "link.yaml").symlink_to(tmp_path / "target")
    listing = list_paths([str(tmp_path / "shop"), str(tmp_path / "named"), str(tmp_path / "missing")])

    read = ("shop/a.yaml", "shop/b.json", "shop", "named", "target", "missing")
    others = ("shop/access.log", "shop/.a.yaml", "access.log", "a.yaml")
    assert all(listing.matters(str(tmp_path / path)) for path in read)
    assert not any(listing.matters(str(tmp_path / path)) for path in others)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from moongate.infra import launch


def started(parent: int | str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__, str(parent), *command],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_becomes_the_command() -> None:
    """In the same process, which the kernel now ends with its parent."""
    source = "import os, sys; from moongate.infra import launch; launch.main(os.getppid(), sys.argv[1:])"

    done = subprocess.run(
        [sys.executable, "-c", source, "/bin/sh", "-c", "echo $$; exit 3"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert done.stdout.strip().isdigit()


def test_without_its_parent_it_starts_nothing(tmp_path: Path) -> None:
    """Its parent may die before the kernel was asked to watch it."""
    witness = tmp_path / "ran"

    done = started(2**22 + 1, "/bin/touch", str(witness))

    assert done.returncode == 0
    assert not witness.exists()


def test_a_command_that_cannot_be_run_is_reported() -> None:
    done = started(os.getpid(), "/no/envoy")

    assert done.returncode == launch.CANNOT_RUN
    assert done.stderr == "/no/envoy cannot be run: No such file or directory.\n"


def test_it_may_open_as_many_files_as_the_system_allows() -> None:
    """A shell often passes on a limit of 1024, and each connection is a file."""
    script = f'ulimit -Sn 64; exec "$0" -I -S {launch.__file__} $$ /bin/sh -c "ulimit -Sn; ulimit -Hn"'
    # A shell in between would be the parent, so it becomes the launcher, whose parent is this process.
    script = script.replace("$$", str(os.getpid()))

    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable], capture_output=True, text=True, check=True
    )

    soft, hard = done.stdout.split()
    assert soft == hard != "64"

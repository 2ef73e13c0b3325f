"""What users install is the wheel: it is built, installed into an empty environment, and run from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


def test_the_command_runs_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """A dependency that only the development environment has would be missed here, and by users."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(
        venv / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "constraints.txt",
        wheel,
    )

    helped = run(venv / "bin" / "moongate", "--help", cwd=tmp_path)

    assert "moongate" in helped
    assert "translate" in helped


def test_the_wheel_carries_types_and_pages(wheel: Path) -> None:
    """Type checkers want ``py.typed``; ``moongate explain`` wants the page of each feature."""
    names = set(zipfile.ZipFile(wheel).namelist())
    pages = {f"moongate/features/{page.name}" for page in (ROOT / "src/moongate/features").glob("*.md")}

    assert {"moongate/py.typed", *pages} <= names


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed, without this environment's Python settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)

    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout

"""CEL without its command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import sys
import moongate.world
assert "prompt_toolkit" not in sys.modules, "a command line was loaded"
import cel.cli
assert cel.cli.main is not None and "prompt_toolkit" in sys.modules
"""


@pytest.mark.slow
def test_the_core_loads_no_command_line() -> None:
    """It would be a third of the memory of a small world; and who wants it can still have it."""
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")

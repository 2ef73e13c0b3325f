from __future__ import annotations

import shlex
import signal
import subprocess
import sys


def test_ctrl_c_before_a_command_has_begun_shows_no_traceback() -> None:
    """Importing the commands takes a while, and whoever mistyped is quick."""
    source = "import moongate.__main__, os, signal; os.kill(os.getpid(), signal.SIGINT); print('not ended')"

    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGINT
    assert done.stdout + done.stderr == ""


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """A script starts what is in its background so."""
    source = "import moongate.__main__, os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    ignoring = f"trap '' INT; exec {shlex.join([sys.executable, '-c', source])}"

    assert subprocess.check_output(["/bin/sh", "-c", ignoring], text=True) == "goes on\n"

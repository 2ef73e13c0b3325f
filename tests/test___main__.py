from __future__ import annotations

import shlex
import signal
import subprocess
import sys

import pytest


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


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed: str) -> None:
    """A daemon is started so; whatever is opened next must not be taken for one of them."""
    source = "import moongate.__main__, sys, os; sys.argv = ['moongate', 'version']; moongate.__main__.main()"

    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {shlex.join([sys.executable, '-c', source])} {closed}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["--help", "version", "status", "validate -", "translate -"])
def test_a_reader_that_is_gone_is_no_error(arguments: str) -> None:
    """``moongate status | head -0``: neither a traceback nor a word about a pipe."""
    command = f"{shlex.quote(sys.executable)} -m moongate {arguments} </dev/null | head -c 0"

    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)

    assert "Error" not in done.stderr
    assert "Exception" not in done.stderr

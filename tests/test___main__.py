from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys

import pytest

from moongate.__main__ import SERVING
from moongate.cli.app import COMMANDS
from tests.signals import while_importing

ENDING = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize(
    "module", ["moongate.cli", "asyncio", pytest.param("moongate.run", marks=pytest.mark.slow)]
)
def test_a_signal_while_a_run_is_imported_ends_it_as_it_does_later(
    module: str, number: signal.Signals
) -> None:
    """A supervisor that takes back a start at once must not find a failure."""
    done = started("run", "--to", "localhost:1", sends={module: number})

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("quickstart",), ("--debug", "run", "--to", "localhost:1")])
def test_all_that_serves_ends_so(words: tuple[str, ...]) -> None:
    done = started(*words, sends={"moongate.cli": signal.SIGTERM})

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_serves_are_commands() -> None:
    assert set(SERVING) <= set(COMMANDS)


@pytest.mark.slow
def test_a_hangup_while_a_run_is_imported_does_not_end_a_daemon() -> None:
    """Without a terminal it asks for all files to be read again, and none has been read yet."""
    sends = {"moongate.cli": signal.SIGHUP, "moongate.run": signal.SIGHUP, "moongate.run.standalone": 0}

    done = started("run", "--to", "localhost:1", sends=sends, new_session=True)

    assert done.stdout == "moongate.run.standalone"


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_of_a_terminal_ends_a_run_that_is_imported_unless_nohup_ignores_it(ignored: bool) -> None:
    sends = {"moongate.run": signal.SIGHUP, "moongate.run.standalone": 0}
    ours, theirs = pty.openpty()
    try:
        # A session's leader gets the first terminal that it opens as its controlling one.
        before = f"exec <{os.ttyname(theirs)};" + "trap '' HUP;" * ignored

        done = started("run", "--to", "localhost:1", sends=sends, before=before, new_session=True)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (done.returncode, done.stdout) == (0, "moongate.run.standalone" if ignored else "")


def test_ctrl_c_before_a_command_has_begun_shows_no_traceback() -> None:
    """Importing the commands takes a while, and whoever mistyped is quick."""
    done = started("version", sends={"moongate.cli": signal.SIGINT})

    assert done.returncode == -signal.SIGINT
    assert done.stdout + done.stderr == ""


@pytest.mark.slow
def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """A script starts what is in its background so."""
    done = started("version", sends={"moongate.cli": signal.SIGINT}, before="trap '' INT;")

    assert done.stdout.startswith("moongate ")


def started(
    *words: str, sends: dict[str, int], before: str = "", new_session: bool = False
) -> subprocess.CompletedProcess[str]:
    """A command that gets signals while it imports modules."""
    python = shlex.join([sys.executable, "-c", while_importing(sends), *words])
    return subprocess.run(
        ["/bin/sh", "-c", f"{before} exec {python}"],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=new_session,
    )


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

"""Process 1 of a container removes what others leave behind, and nothing that somebody here waits for."""

from __future__ import annotations

import os
import subprocess

import pytest

from moongate.infra.orphans import reap_orphans


def ended(*, own_session: bool) -> subprocess.Popen[bytes]:
    """A child that has ended with status 3, and that nobody has waited for."""
    child = subprocess.Popen(["sh", "-c", "exit 3"], start_new_session=own_session)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child


def test_the_exit_status_of_an_envoy_and_of_a_trial_run_are_left_to_those_who_wait() -> None:
    """An Envoy has a session of its own; other programs that are started are in the session of moongate."""
    envoy, trial = ended(own_session=True), ended(own_session=False)
    reap_orphans({envoy.pid})
    assert (envoy.wait(), trial.wait()) == (3, 3)


def test_a_child_in_another_session_that_nobody_waits_for_is_removed() -> None:
    """This is what a health check leaves behind."""
    orphan = ended(own_session=True)
    reap_orphans(())
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan.pid, os.WNOHANG)
    orphan.returncode = 0

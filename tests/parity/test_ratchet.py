"""Parity with Envoy Gateway only grows: what a case was equal in, it stays equal in.

Its own goldens are laid beside a checkout, with the script that compares; they are not part of it. Two lists
are:

* ``passes.txt``: what each case is equal in. ``pytest tests/parity --accept`` adds what is new.
* ``differences.txt``: where we deliberately answer otherwise, each with its reason. What is moved there from
  ``passes.txt`` is moved by hand, so that a review sees it.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT.parent / "shared" / "parity" / "parity.py"
PASSES = Path(__file__).with_name("passes.txt")
DIFFERENCES = Path(__file__).with_name("differences.txt")

WHAT = ("status", "names", "xds")
LEAST = {"status": 0.75, "names": 0.70, "xds": 0.60}
"""The share of the cases of ``CORE`` that must be equal; a deliberate difference counts as none."""
CORE = ("httproute-*", "gateway-*")

HEAD = """\
# What each case of Envoy Gateway's is equal in. Written by: pytest tests/parity --accept
"""

Verdicts = Mapping[str, Mapping[str, bool]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.exists(), reason="the parity cases are not beside the checkout"),
]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """What each case is equal in, as the script finds it."""
    report = tmp_path_factory.mktemp("parity") / "verdicts.json"
    subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(report)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return json.loads(report.read_text())


def test_no_case_falls_behind_what_it_was_equal_in(verdicts: Verdicts) -> None:
    """To see what changed: ``parity.py --show CASE``. A change that is meant goes to ``differences.txt``."""
    behind = [
        f"{case} {what}"
        for case, listed in passes().items()
        for what in sorted(listed, key=WHAT.index)
        if not verdicts.get(case, {}).get(what)
    ]

    assert behind == []


def test_what_a_case_is_newly_equal_in_is_listed(verdicts: Verdicts, pytestconfig: pytest.Config) -> None:
    """Once listed it cannot be lost: ``pytest tests/parity --accept`` lists it, and takes nothing off."""
    held = passes()
    more = {
        case: {what for what in WHAT if verdict[what]} | held.get(case, set())
        for case, verdict in verdicts.items()
    }

    if pytestconfig.getoption("accept"):
        lines = (
            " ".join([case, *sorted(equal, key=WHAT.index)]) for case, equal in sorted(more.items()) if equal
        )
        PASSES.write_text(HEAD + "\n".join(lines) + "\n")

    listed = passes()
    new = [
        f"{case} {what}"
        for case, equal in more.items()
        for what in WHAT
        if what in equal - listed.get(case, set())
    ]
    assert new == [], "run pytest tests/parity --accept, and commit passes.txt"


def test_a_difference_that_is_meant_is_one(verdicts: Verdicts) -> None:
    """A reason that no case needs any more would excuse the next accident."""
    idle = [f"{case} {what}" for case, what in differences() if verdicts[case][what] is not False]

    assert idle == []


def test_no_case_is_both_equal_and_meant_to_differ() -> None:
    held = passes()

    assert [f"{case} {what}" for case, what in differences() if what in held.get(case, ())] == []


@pytest.mark.parametrize("what", WHAT)
def test_most_of_gateways_and_their_http_routes_is_equal(verdicts: Verdicts, what: str) -> None:
    cases = [
        verdict for case, verdict in verdicts.items() if any(fnmatch.fnmatch(case, glob) for glob in CORE)
    ]

    assert sum(bool(verdict[what]) for verdict in cases) >= LEAST[what] * len(cases)


def passes() -> dict[str, set[str]]:
    """Case → what it is listed to be equal in."""
    return {case: set(equal) for case, *equal in map(str.split, lines_of(PASSES))}


def differences() -> list[tuple[str, str]]:
    """(case, what differs in it), for all that is meant."""
    unexplained: list[tuple[str, str]] = []
    for line in lines_of(DIFFERENCES):
        head, _, reason = line.partition(":")
        assert reason.strip(), f"the difference {head!r} has no reason"
        case, *what = head.split()
        unexplained += [(case, each) for each in what]
    return unexplained


def lines_of(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines() if line and not line.startswith("#")]

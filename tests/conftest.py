"""What all tests share: ``--accept``, which takes what moongate answers as what a page expects.

How hard Hypothesis tries is told by HYPOTHESIS_PROFILE: ``default`` for every day, ``ci``, ``nightly``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.cases import Expected, rewrite

# No deadline: a slow machine is no bug of ours, and tests do not judge by the clock.
settings.register_profile("default", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", parent=settings.get_profile("ci"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

Accept = Callable[[Expected, Any], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="rewrite the blocks of literate cases that differ from what moongate answers",
    )


@pytest.fixture(scope="session")
def accept(pytestconfig: pytest.Config) -> Iterator[Accept]:
    """Compares a block with the actual value, as data; or notes it to be rewritten after the last test."""
    rewriting = bool(pytestconfig.getoption("accept"))
    changes: list[tuple[Expected, Any]] = []

    def compare(expected: Expected, actual: Any) -> None:
        if expected.value == actual:
            return
        if not rewriting:
            assert expected.value == actual, f"{expected.page.name}: {expected.what} {expected.path}"
        changes.append((expected, actual))

    yield compare
    rewrite(changes)

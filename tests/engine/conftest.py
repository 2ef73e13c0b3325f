"""What tests of the engine begin with."""

from __future__ import annotations

import pytest

from moongate.engine import Db


@pytest.fixture
def db() -> Db:
    """An engine in which nothing is written yet."""
    return Db()

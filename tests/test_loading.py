"""Loading many resources at once."""

from __future__ import annotations

import gc

import pytest

from moongate.loading import loading


@pytest.mark.usefixtures("only_own_garbage")
def test_the_first_load_is_not_searched_for_garbage() -> None:
    """Neither while it is built nor later: what it has made lives as long as the process."""
    collections = [generation["collections"] for generation in gc.get_stats()]
    frozen = gc.get_freeze_count()

    with loading():
        world = [[n] for n in range(100_000)]
        assert [generation["collections"] for generation in gc.get_stats()] == collections

    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(world)
    gc.unfreeze()

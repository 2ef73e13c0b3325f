"""Reading what is in force: shards."""

from __future__ import annotations

from moongate.store import SHARDS, shard


def test_a_shard_is_the_same_in_every_process() -> None:
    """Or two control planes would send different bytes for the same resources."""
    assert [shard("a"), shard("HTTPRoute default/r0")] == [67, 238]
    assert all(0 <= shard(str(n)) < SHARDS for n in range(1_000))

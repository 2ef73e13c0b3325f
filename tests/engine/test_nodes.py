"""The nodes of the graph: their edges, few or many."""

from __future__ import annotations

import pytest

from moongate.engine.nodes import CLEAN, STALE, Node


def cell(n: int) -> Node:
    return Node(None, n, n, CLEAN)


@pytest.mark.parametrize("many", [1, 3, 4, 5, 6, 100])
def test_readers_are_kept_in_the_order_in_which_they_came(many: int) -> None:
    """The order in which roots are settled follows from it."""
    node, readers = cell(0), [Node(None, n, None, STALE) for n in range(many)]

    for reader in [*readers, *readers]:
        node.add_reader(reader)

    assert list(node.readers) == readers


@pytest.mark.parametrize("many", [1, 3, 4, 5, 6, 100])
def test_a_node_without_readers_has_room_for_none(many: int) -> None:
    node, readers = cell(0), [Node(None, n, None, STALE) for n in range(many)]
    for reader in readers:
        node.add_reader(reader)

    for left, reader in enumerate(reversed(readers)):
        assert len(node.readers) == many - left
        node.drop_reader(reader)
        node.drop_reader(reader)

    assert node.readers == ()

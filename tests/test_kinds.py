from __future__ import annotations

from moongate.kinds import KINDS, OWN_GROUPS, READ, UNBUILT_KINDS


def test_a_kind_name_means_one_kind() -> None:
    """The metadata in Envoy's configuration has no group, so there the name alone must do."""
    assert len({kind.KIND for kind in READ}) == len(READ)


def test_a_kind_is_read_or_not_built_never_both() -> None:
    assert not UNBUILT_KINDS & KINDS.keys()


def test_groups_of_our_own_have_kinds_that_are_read() -> None:
    assert {group for group, _ in KINDS} > OWN_GROUPS

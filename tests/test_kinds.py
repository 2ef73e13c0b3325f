from __future__ import annotations

from moongate.kinds import KINDS, OWN_GROUPS, READ, UNBUILT_KINDS


def test_a_kind_name_means_one_kind() -> None:
    """A ``Ref`` has no group, so two kinds of one name could not be told apart."""
    assert len({kind.KIND for kind in READ}) == len(READ)


def test_a_kind_is_read_or_not_built_never_both() -> None:
    assert not UNBUILT_KINDS & KINDS.keys()


def test_groups_of_our_own_have_kinds_that_are_read() -> None:
    assert {group for group, _ in KINDS} > OWN_GROUPS

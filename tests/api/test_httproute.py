"""What an HTTPRoute says of itself."""

from __future__ import annotations

import pytest

from moongate.api.httproute import HTTPPathMatch


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (HTTPPathMatch(value="/a"), HTTPPathMatch(value="/a/"), True),
        (HTTPPathMatch(value="/"), HTTPPathMatch(), True),
        (HTTPPathMatch(value="/a"), HTTPPathMatch(value="/"), False),
        (HTTPPathMatch(value="/a"), HTTPPathMatch(value="/a", type="Exact"), False),
        (HTTPPathMatch(value="/a", type="Exact"), HTTPPathMatch(value="/a/", type="Exact"), False),
        (HTTPPathMatch(value="/a", type="RegularExpression"), HTTPPathMatch(value="/a", type="Exact"), False),
    ],
)
def test_the_keys_of_paths_are_equal_where_they_match_alike(
    one: HTTPPathMatch, other: HTTPPathMatch, alike: bool
) -> None:
    assert (one.key == other.key) is alike

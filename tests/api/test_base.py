"""What all API types share: strict fields, references, ages, durations."""

from __future__ import annotations

import msgspec
import pytest

from moongate.api.base import ObjectMeta, Ref, Resource, milliseconds
from moongate.api.gateway import GatewayClass
from moongate.api.httproute import HTTPRoute


@pytest.mark.parametrize(
    ("duration", "length"),
    [
        ("0s", 0),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("1m1m", 120_000),
        ("99999h99999h99999h99999h", 1_439_985_600_000),
    ],
)
def test_the_parts_of_a_duration_add_up(duration: str, length: int) -> None:
    assert milliseconds(duration) == length


def test_a_field_that_does_not_exist_is_refused() -> None:
    """A misspelt field that is dropped in silence is a policy that is not in force."""
    with pytest.raises(msgspec.ValidationError, match="lable"):
        msgspec.convert({"name": "shop", "lable": {}}, ObjectMeta)


def test_fields_are_camel_case_on_the_wire() -> None:
    meta = msgspec.convert({"name": "shop", "creationTimestamp": "2024-01-01T00:00:00Z"}, ObjectMeta)

    assert meta.creation_timestamp == "2024-01-01T00:00:00Z"


def test_the_oldest_comes_first_then_the_name() -> None:
    """The Gateway API settles conflicts so; a resource without a time counts as the oldest."""
    a, b = aged("a", "2024-01-02T00:00:00Z"), aged("b", "2024-01-01T00:00:00Z")
    c, d = aged("c", "2024-01-01T00:00:00Z"), aged("d", "")

    assert sorted([a, b, c, d], key=lambda each: each.age) == [d, b, c, a]


def test_a_reference_reads_as_people_write_it() -> None:
    assert str(Ref.of(HTTPRoute, "default", "shop")) == "HTTPRoute default/shop"
    assert str(Ref.of(GatewayClass, "", "eg")) == "GatewayClass eg"


def test_a_reference_knows_its_group() -> None:
    """Kubernetes has kinds of one name in several groups."""
    other = Ref("HTTPRoute", "default", "shop", "other.example.com")

    assert Ref.of(HTTPRoute, "default", "shop").is_a(HTTPRoute)
    assert not other.is_a(HTTPRoute)
    assert other != Ref.of(HTTPRoute, "default", "shop")


def test_references_sort_by_kind_namespace_and_name() -> None:
    """Statuses stand in this order, whatever the groups are called."""
    first = Ref("HTTPRoute", "default", "a", "z.example.com")

    assert sorted([Ref.of(HTTPRoute, "default", "b"), first]) == [first, Ref.of(HTTPRoute, "default", "b")]


def aged(name: str, time: str) -> Resource:
    return Resource(metadata=ObjectMeta(name=name, creation_timestamp=time))


def test_a_duration_without_end_is_the_longest_that_can_be_said() -> None:
    """An object may be older than the rule for its durations; Envoy takes no number of any size."""
    assert milliseconds("99999h99999h99999h99999h") == milliseconds("9" * 5000 + "h") == 1_439_985_600_000

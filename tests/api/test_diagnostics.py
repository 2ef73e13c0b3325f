"""What is said of a value that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Struct
from msgspec import inspect as types

from moongate.api.admission import checked
from moongate.api.backend import IPEndpoint
from moongate.api.base import DurationStr, Model
from moongate.api.diagnostics import did_you_mean, shown
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import FilterPosition
from moongate.api.health_checks import HealthCheckPayload
from moongate.api.shared import HeaderValue, Hostname, Quantity
from moongate.features.cors import CORS
from moongate.kinds import KINDS


class Given(Model, frozen=True, kw_only=True):
    """A field of each form that people meet."""

    duration: DurationStr = "1s"
    header: HeaderValue = "a"
    hostname: Hostname = "a"
    size: Quantity = 1


def messages(model: type[Model], **fields: Any) -> list[str]:
    return [problem.message for problem in checked(model, fields)[1]]


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            Given,
            {"duration": 600},
            (
                "The value is 600; it must be a duration with at most 5 digits before each unit, "
                "such as '600s', '1h30m' or '48h'."
            ),
        ),
        (
            Given,
            {"duration": "10 min"},
            (
                "The value is '10 min'; it must be a duration with at most 5 digits before each unit, "
                "such as '600s', '1h30m' or '48h'."
            ),
        ),
        (
            Given,
            {"hostname": "https://shop.example.com"},
            (
                "The value is 'https://shop.example.com'; it must be a DNS name in lower case, such as "
                "'shop.example.com', without scheme, port or path, or '*.example.com'; none means any."
            ),
        ),
        (Given, {"header": 1}, "The value is 1; it must be a string: write it in quotes."),
        (
            Given,
            {"size": "10 MB"},
            (
                "The value is '10 MB'; it must be a quantity: a number, perhaps with a unit, such as "
                "'32Ki', '500m' or 10."
            ),
        ),
        (
            IPEndpoint,
            {"address": "localhost", "port": 80},
            (
                "The value is 'localhost'; it must be an IPv4 or IPv6 address, such as '127.0.0.1' or "
                "'::1', without brackets, zone or leading zeros; a name goes under fqdn, as its hostname."
            ),
        ),
        (
            CORS,
            {"allowOrigins": ["shop.example.com/"]},
            (
                "The value is 'shop.example.com/'; it must be an origin: scheme and host, such as "
                "'https://shop.example.com' or 'https://*.example.com:8443', without a path; or '*'."
            ),
        ),
    ],
)
def test_a_form_is_described_in_words(model: type[Model], fields: dict[str, Any], message: str) -> None:
    assert messages(model, **fields) == [message]


def test_an_empty_payload_is_said_to_be_empty() -> None:
    """An API server does not take it for base64."""
    said = messages(HealthCheckPayload, type="Binary", binary="")

    assert said == ["The value is empty; it must be at least one byte in base64."]


def test_each_pattern_has_words() -> None:
    """A regular expression tells nobody what would be right."""
    kinds = [*KINDS.values(), EnvoyGateway]

    assert [at for kind in kinds for at in _without_words(types.type_info(kind), kind.__name__, ())] == []


def _without_words(type_: types.Type, at: str, within: tuple[type[Struct], ...]) -> Iterator[str]:
    match type_:
        case types.Metadata():
            if "form" not in (type_.extra or {}):  # pyright: ignore[reportUnknownMemberType]
                yield from _without_words(type_.type, at, within)
        case types.StrType() if type_.pattern is not None:
            yield f"{at}: {type_.pattern}"
        case types.UnionType():
            for part in type_.types:
                yield from _without_words(part, at, within)
        case types.VarTupleType():
            yield from _without_words(type_.item_type, at, within)
        case types.DictType():
            yield from _without_words(type_.key_type, at, within)
            yield from _without_words(type_.value_type, at, within)
        case types.StructType() if type_.cls not in within:
            for field in type_.fields:
                yield from _without_words(field.type, f"{at}.{field.name}", (*within, type_.cls))
        case _:
            pass


@pytest.mark.parametrize(
    ("written", "known", "question"),
    [
        ("shpo", ["cart", "shop"], " Did you mean 'shop'?"),
        ("https", ["HTTP", "HTTPS"], " Did you mean 'HTTPS'?"),
        ("Regex", ["Exact", "RegularExpression"], " Did you mean 'RegularExpression'?"),
        ("till", ["cart", "shop"], ""),
    ],
)
def test_the_name_that_is_most_like_is_asked_for(written: str, known: list[str], question: str) -> None:
    assert did_you_mean(written, known) == question


def test_a_value_is_shown_short_and_in_the_words_of_yaml() -> None:
    values: tuple[object, ...] = (None, True, {}, [], "a")

    assert [shown(value) for value in values] == ["missing", "true", "an object", "a list", "'a'"]
    assert len(shown("x" * 1000)) == 81


def test_what_was_probably_meant_stands_before_many_choices() -> None:
    """There are 27 filters with long names, behind which nobody looks for a question."""
    [message] = messages(
        FilterPosition, name="envoy.filters.http.fault", before="envoy.filters.http.basic-auth"
    )

    assert message.startswith(
        "The value is 'envoy.filters.http.basic-auth'. Did you mean 'envoy.filters.http.basic_auth'? "
        "It must be one of envoy.filters.http.api_key_auth, "
    )

"""Which compressors are on, and which of them comes first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.compressor import FEATURES, Compressions
from tests.features.backends import OWNER, plain

BROTLI: dict[str, Any] = {"type": "Brotli", "brotli": {}}
GZIP: dict[str, Any] = {"type": "Gzip", "gzip": {}}
ZSTD: dict[str, Any] = {"type": "Zstd", "zstd": {}}
WRONG: dict[str, Any] = {"type": "Gzip", "brotli": {}}


def value(*entries: dict[str, Any]) -> Effective[Compressions]:
    return Effective(msgspec.convert(entries, Compressions), OWNER)


def on(field: str, *entries: dict[str, Any]) -> dict[str, bool]:
    """The compressors that are on, by type, each with whether it is the first choice."""
    compressors: dict[str, bool] = {}
    for feature in (each for each in FEATURES if each.field == field):
        assert feature.applies is not None
        assert feature.http_filter is not None
        if feature.applies(value(*entries)):
            chain = plain(feature.http_filter.chain(Db(), value(*entries)))
            compressors[feature.http_filter.name.rpartition(".")[2]] = chain.get("choose_first", False)
    return compressors


@pytest.mark.parametrize(
    ("entries", "compressors"),
    [
        ((GZIP, BROTLI), {"brotli": False, "gzip": True}),
        (({"type": "Gzip"}, ZSTD), {"zstd": True}),
        ((WRONG,), {}),
        ((), {}),
    ],
)
def test_an_entry_is_on_if_it_has_the_field_of_its_type(
    entries: tuple[dict[str, Any], ...], compressors: dict[str, bool]
) -> None:
    assert on("compressor", *entries) == compressors


def test_in_the_older_field_the_type_is_enough() -> None:
    assert on("compression", {"type": "Zstd"}, {"type": "Gzip"}) == {"gzip": False, "zstd": True}
    assert on("compression", ZSTD, WRONG) == {"gzip": False, "zstd": True}


def test_the_length_from_which_on_responses_are_compressed_is_the_filters() -> None:
    feature = next(
        each for each in FEATURES if each.http_filter is not None and "gzip" in each.http_filter.name
    )
    assert feature.http_filter is not None
    assert feature.http_filter.stable is not None

    config = plain(feature.http_filter.stable(value({**GZIP, "minContentLength": "1Ki"}).value))

    assert config["response_direction_config"] == {"common_config": {"min_content_length": 1024}}


def test_what_stands_in_every_chain_is_each_compressor_as_a_first_and_as_another_choice() -> None:
    """So a first policy changes no listener."""
    for feature in FEATURES:
        assert feature.http_filter is not None
        stable = feature.http_filter.stable
        assert stable is not None
        standing = [
            plain(stable(each)).get("choose_first", False) for each in (None, *feature.http_filter.forms)
        ]
        # An entry without the field of its type is on in the older field alone.
        assert standing == [False, True]


def test_a_length_that_envoy_cannot_have_is_refused() -> None:
    [problem] = FEATURES[0].check(Db(), value(GZIP, {**BROTLI, "minContentLength": "5G"}))  # type: ignore[misc]

    assert problem.path == "[1].minContentLength"

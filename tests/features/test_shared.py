"""Values of the API in Envoy's form."""

from __future__ import annotations

import pytest

from moongate.api.shared import Fraction
from moongate.features.shared import duration, fractional, header_fault


def test_a_duration_keeps_its_milliseconds() -> None:
    assert duration("1m500ms").ToMilliseconds() == 60_500


@pytest.mark.parametrize(
    ("share", "millionths"), [((1, 3), 333_333), ((2, 3), 666_667), ((1, 1), 1_000_000), ((0, 7), 0)]
)
def test_a_share_that_is_not_in_percent_is_rounded_to_millionths(
    share: tuple[int, int], millionths: int
) -> None:
    built = fractional(Fraction(numerator=share[0], denominator=share[1]))

    assert (built.numerator, built.denominator) == (millionths, built.MILLION)


def test_a_share_in_percent_stays_in_percent() -> None:
    built = fractional(Fraction(numerator=7))

    assert (built.numerator, built.denominator) == (7, built.HUNDRED)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("x y", "1", "is not the name"),
        ("Content-Length", "1", "where a message ends"),
        ("Host", "a", "urlRewrite"),
        ("x", "a\nb", "printable"),
        ("x", " a", "printable"),
        ("x", "%REQ(a", "does not end"),
    ],
)
def test_a_header_that_nobody_may_set_is_a_fault(name: str, value: str, word: str) -> None:
    fault = header_fault(name, value)

    assert fault is not None
    assert word in fault


def test_a_header_with_a_command_or_a_percent_sign_is_none() -> None:
    assert header_fault("x", "%REQ(a)% of 100%%") is None

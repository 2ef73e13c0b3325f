"""Regular expressions are judged as Envoy judges them."""

from __future__ import annotations

import pytest

from moongate.regex import regex_fault


def test_what_envoy_can_compile_has_no_fault() -> None:
    assert regex_fault(r"/v[0-9]+/.*") is None


@pytest.mark.parametrize("pattern", ["*", "(", r"(?=ahead)", r"(a)\1"])
def test_what_envoy_cannot_compile_is_reported_with_the_pattern(pattern: str) -> None:
    """Look-ahead and back-references are fine for Python; RE2 has neither."""
    fault = regex_fault(pattern)

    assert fault is not None
    assert fault.startswith(repr(pattern))

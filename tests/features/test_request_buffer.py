"""Requests that are held until they are complete."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.features.request_buffer import FEATURE
from tests.features.backends import faults


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({"limit": "1Ki"}, []),
        ({"limit": "4G"}, []),
        ({"limit": "5G"}, ["limit"]),
        ({"limit": 0}, ["limit"]),
        ({}, ["limit"]),
    ],
)
def test_a_limit_must_be_one_that_envoy_can_have(spec: dict[str, Any], paths: list[str]) -> None:
    assert faults(FEATURE, spec) == paths

"""The scheme is the client's unless it is to be the backend's."""

from __future__ import annotations

from moongate.features.scheme import FEATURE
from tests.features.listeners import manager_with


def test_only_match_backend_changes_it() -> None:
    assert manager_with(FEATURE, "MatchBackend").scheme_header_transformation.match_upstream
    assert manager_with(FEATURE, "Preserve") == manager_with(FEATURE, None)

"""Paths are cleaned as the policy says."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate.features.path import FEATURE, EscapedSlashesAction, PathSettings
from tests.features.listeners import manager_with


def edited(path: PathSettings) -> HttpConnectionManager:
    return manager_with(FEATURE, path)


def test_nothing_set_merges_slashes_and_redirects_escaped_ones() -> None:
    hcm = edited(PathSettings())

    assert hcm.merge_slashes
    assert hcm.path_with_escaped_slashes_action == HttpConnectionManager.UNESCAPE_AND_REDIRECT


def test_double_slashes_may_be_kept() -> None:
    assert not edited(PathSettings(disable_merge_slashes=True)).merge_slashes


@pytest.mark.parametrize(
    ("asked", "action"),
    [
        ("KeepUnchanged", "KEEP_UNCHANGED"),
        ("RejectRequest", "REJECT_REQUEST"),
        ("UnescapeAndForward", "UNESCAPE_AND_FORWARD"),
        ("UnescapeAndRedirect", "UNESCAPE_AND_REDIRECT"),
    ],
)
def test_escaped_slashes_are_treated_as_asked(asked: EscapedSlashesAction, action: str) -> None:
    hcm = edited(PathSettings(escaped_slashes_action=asked))

    assert hcm.path_with_escaped_slashes_action == HttpConnectionManager.PathWithEscapedSlashesAction.Value(
        action
    )

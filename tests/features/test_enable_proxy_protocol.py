"""The former field says the same as an empty object, and gives way to one."""

from __future__ import annotations

from moongate.features import FEATURES, client_proxy_protocol
from moongate.features.base import Effective
from moongate.features.client_proxy_protocol import ProxyProtocolSettings
from moongate.features.enable_proxy_protocol import FEATURE
from tests.features.listeners import OWNER, listener_with


def test_it_says_the_same_as_an_empty_object() -> None:
    assert listener_with(FEATURE, True) == listener_with(
        client_proxy_protocol.FEATURE, ProxyProtocolSettings()
    )


def test_false_says_nothing() -> None:
    assert listener_with(FEATURE, False) == listener_with(FEATURE, None)


def test_an_object_beside_it_wins() -> None:
    """Which is applied first, as it stands first in the table."""
    listener = listener_with(client_proxy_protocol.FEATURE, ProxyProtocolSettings(optional=True))
    with_both = type(listener)()
    with_both.CopyFrom(listener)
    assert FEATURE.listener is not None
    FEATURE.listener(with_both, Effective(True, OWNER))

    assert with_both == listener
    assert FEATURES.index(client_proxy_protocol.FEATURE) < FEATURES.index(FEATURE)

"""Events: they tell the Envoys of a fleet apart."""

from __future__ import annotations

from moongate.ads.events import Connected


def test_envoys_with_one_node_id_are_distinguished_by_their_streams() -> None:
    """Two Envoys may be started with the same node id; what one has says nothing about the other."""
    one, again, other = (Connected(fleet="eg", node="one", stream=stream) for stream in (1, 1, 2))

    assert one.envoy == again.envoy
    assert one.envoy != other.envoy

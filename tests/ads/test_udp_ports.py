"""Which ports of UDP an Envoy still has open although it does not serve them."""

from __future__ import annotations

from moongate.ads.needs import Socket
from moongate.ads.udp_ports import Draining, UdpPorts

PID = 7
DNS = Socket("127.0.0.1", 53, is_udp=True)
QUIC = Socket("127.0.0.1", 443, is_udp=True)
HTTPS = Socket("127.0.0.1", 443, is_udp=False)
LATER = Draining(60.0, "later")


def test_what_a_listener_leaves_is_drained_until_the_time_is_over() -> None:
    ports = UdpPorts()
    assert not ports.note(PID, "dns", {DNS}, LATER)
    assert ports.draining(PID, 0) == {}

    assert ports.note(PID, "dns", (), LATER)

    assert ports.draining(PID, 59) == {DNS: LATER}
    assert ports.draining(PID, 60) == {}
    assert ports.serving(DNS) == ()


def test_a_listener_that_moves_drains_its_former_port() -> None:
    ports = UdpPorts()
    ports.note(PID, "udp", {DNS}, LATER)

    assert ports.note(PID, "udp", {QUIC}, LATER)

    assert ports.draining(PID, 0) == {DNS: LATER}
    assert ports.serving(QUIC) == ("udp",)


def test_a_listener_that_changes_at_its_port_drains_nothing_that_another_envoy_could_get() -> None:
    ports = UdpPorts()
    ports.note(PID, "dns", {DNS}, LATER)

    assert not ports.note(PID, "dns", {DNS}, LATER)

    assert ports.draining(PID, 0) == {}


def test_ports_of_tcp_do_not_count() -> None:
    """Envoy closes them at once."""
    ports = UdpPorts()
    ports.note(PID, "https", {HTTPS}, LATER)

    assert not ports.note(PID, "https", (), LATER)

    assert ports.draining(PID, 0) == {}
    assert ports.serving(HTTPS) == ()


def test_a_port_that_comes_back_is_served_again() -> None:
    ports = UdpPorts()
    ports.note(PID, "dns", {DNS}, LATER)
    ports.note(PID, "dns", (), LATER)

    assert not ports.note(PID, "other", {DNS}, LATER)

    assert ports.draining(PID, 0) == {}
    assert ports.serving(DNS) == ("other",)


def test_a_process_that_has_ended_has_no_port_open() -> None:
    ports = UdpPorts()
    ports.note(PID, "dns", {DNS}, LATER)
    ports.note(PID, "dns", (), LATER)
    ports.note(PID, "quic", {QUIC}, LATER)

    assert ports.draining(None, 0) == {}
    assert ports.draining(8, 0) == {}
    assert not ports.note(8, "dns", (), LATER)
    assert ports.serving(QUIC) == ()

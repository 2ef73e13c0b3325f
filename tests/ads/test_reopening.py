"""Listeners whose addresses are still open: what is closed, what is sent again, and what stays refused."""

from __future__ import annotations

from moongate.ads.events import Nacked
from moongate.ads.reopening import MOST_REOPENINGS
from tests.ads.conversation import Conversation


def test_listeners_that_exchange_their_addresses_do_so_beside_one_that_is_refused(
    served: Conversation,
) -> None:
    """Envoy's message is certain for the first of them only, so both are sent again together."""
    served.play("== L+l=1@80 L+m=1@81")
    served.play(">> L ack")
    of = "error adding listener: '{}' has duplicate address '…'"
    served.says(f"""
        == L+a=1@82 L+l=2@81 L+m=2@80
        << L a=1@82 l=2@81 m=2@80
        >> L nack Error adding/updating listener(s) l: {of.format("l")}|a: no|m: {of.format("m")}|
        << L l=2@81 m=2@80
        >> L nack Error adding/updating listener(s) l: {of.format("l")}|m: {of.format("m")}|
        << L -l -m
        >> L ack
        << L l=2@81 m=2@80
        >> L ack
    """)

    assert served.refused() == {"a": "1@82"}


def test_a_listener_that_meets_itself_is_closed_and_opened_anew(served: Conversation) -> None:
    """It gets another address beside the one that it has open. Its routes wait, and nobody is alarmed."""
    served.play("== L+l=1@80")
    served.play(">> L ack")
    served.events()
    served.says("""
        == L+l=2@80,81 L+m=1@82 R+r=2
        << L l=2@80,81 m=1@82
        >> L nack Error adding/updating listener(s) l: error adding listener: 'l' has duplicate address '…'|
        << L m=1@82
        >> L ack
        << L -l
        >> L ack
        << L l=2@80,81
        >> L ack
        << R r=2
        >> R ack
    """)

    assert served.refused() == {}
    assert not [event for event in served.events() if isinstance(event, Nacked)]
    assert served.session.settled(served.snapshot.seq)


def test_listeners_that_exchange_their_addresses_are_opened_anew_together(served: Conversation) -> None:
    served.play("== L+l=1@80 L+m=1@81")
    served.play(">> L ack")
    of = "error adding listener: '{}' has duplicate address '…'"
    served.says(f"""
        == L+l=2@81 L+m=2@80
        << L l=2@81 m=2@80
        >> L nack Error adding/updating listener(s) l: {of.format("l")}|m: {of.format("m")}|
        << L -l -m
        >> L ack
        << L l=2@81 m=2@80
        >> L ack
    """)

    assert served.refused() == {}


def test_a_listener_is_opened_anew_as_often_as_it_is_needed(served: Conversation) -> None:
    for _ in range(2):
        served.play("== L+l=1@80")
        served.play(">> L ack")
        served.says("""
            == L+l=2@80,81
            << L l=2@80,81
            >> L nack error adding listener: 'l' has duplicate address '…'
            << L -l
            >> L ack
            << L l=2@80,81
            >> L ack
        """)


def test_a_new_listener_takes_the_address_of_one_that_moves(served: Conversation) -> None:
    served.play("== L+m=1@80")
    served.play(">> L ack")
    served.says("""
        == L+a=1@80 L+m=2@81
        << L a=1@80 m=2@81
        >> L nack Error adding/updating listener(s) a: error adding listener: 'a' has duplicate address '…'|
        << L m=2@81
        >> L ack
        << L a=1@80
        >> L ack
    """)

    assert served.refused() == {}


def test_a_listener_that_moves_and_waits_for_its_routes_leaves_its_address(served: Conversation) -> None:
    """Until it has them, Envoy keeps the old version open; and the routes wait for the listeners."""
    served.play("== L+m=1@80")
    served.play(">> L ack")
    served.says("""
        == L+a=1@80 L+m=2@81/other R+other=1
        << L a=1@80 m=2@81/other
        >> R +other
        >> L nack Error adding/updating listener(s) a: error adding listener: 'a' has duplicate address '…'|
        << L -m
        >> L ack
        << L a=1@80 m=2@81/other
        >> L ack
        << R other=1
        >> R ack
    """)

    assert served.refused() == {}


def test_a_listener_that_is_refused_again_when_it_is_opened_anew_stays_refused(served: Conversation) -> None:
    """Another version of it is tried again."""
    served.says("""
        == L+a=1@80
        << L a=1@80
        >> L nack error adding listener: 'a' has duplicate address '…'
        << L a=1@80
        >> L nack error adding listener: 'a' has duplicate address '…'
    """)
    assert served.refused() == {"a": "1@80"}

    served.says("""
        == L+a=2@80
        << L a=2@80
        >> L nack error adding listener: 'a' has duplicate address '…'
        << L a=2@80
        >> L ack
    """)
    assert served.refused() == {}


def test_a_listener_is_tried_again_while_its_former_sockets_are_being_closed(served: Conversation) -> None:
    """Envoy answers first. If somebody else has taken the address, that is a refusal in the end."""
    served.play("== L+l=1@80")
    served.play(">> L ack")
    served.says("""
        == L+l=2@80,81
        << L l=2@80,81
        >> L nack error adding listener: 'l' has duplicate address '…'
        << L -l
        >> L ack
        << L l=2@80,81
        >> L nack cannot bind ':80': Address already in use
        << L l=2@80,81
        >> L nack cannot bind ':80': Address already in use
        << L l=2@80,81
    """)
    for _ in range(MOST_REOPENINGS - 1):
        assert served.refused() == {}
        served.play(">> L nack cannot bind ':80': Address already in use")

    assert served.refused() == {"l": "2@80,81"}
    served.says("""
        == L+m=1@82
        << L m=1@82
        >> L ack
    """)


def test_a_new_listener_is_tried_again_while_sockets_of_closed_ones_are_being_closed(
    served: Conversation,
) -> None:
    """It has the address of one that the response closes, and another one: Envoy opens sockets anew."""
    served.play("== L+l=1@80")
    served.play(">> L ack")
    served.says("""
        == L-l L+m=1@80,81 L+n=1@82
        << L m=1@80,81 n=1@82 -l
        >> L nack Error adding/updating listener(s) m: cannot bind ':80': Address already in use|
        << L n=1@82 -l
        >> L ack
        << L m=1@80,81
        >> L nack cannot bind ':80': Address already in use
        << L m=1@80,81
        >> L ack
    """)

    assert served.refused() == {}
    served.says("""
        == L+o=1@83
        << L o=1@83
        >> L nack cannot bind ':83': Address already in use
    """)
    assert served.refused() == {"o": "1@83"}


def test_a_listener_that_meets_another_that_stays_is_not_closed(served: Conversation) -> None:
    """To close it would be in vain: its last good version stays in force."""
    served.play("== L+l=1@80 L+m=1@81")
    served.play(">> L ack")
    served.says("""
        == L+l=2@80,81
        << L l=2@80,81
        >> L nack error adding listener: 'l' has duplicate address '…'
    """)

    assert served.refused() == {"l": "2@80,81"}


def test_a_listener_that_is_refused_beside_one_that_is_opened_anew_is_not_closed(
    served: Conversation,
) -> None:
    """Its last good version stays in force, even if the refused version names a new route table."""
    served.play("== L+a=1@82 L+l=1@80")
    served.play(">> L ack")
    own = "error adding listener: 'l' has duplicate address '…'"
    served.says(f"""
        == L+a=2@82/other L+l=2@80,81 R+other=1
        << L a=2@82/other l=2@80,81
        >> L nack Error adding/updating listener(s) l: {own}|a: no|
        << L -l
        >> L ack
        << L l=2@80,81
        >> L ack
    """)

    assert served.refused() == {"a": "2@82/other"}

"""Scopes: subscriptions to collections, the order of what is sent, and what follows a refusal."""

from __future__ import annotations

from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from moongate.ads.scopes import respelled
from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import LISTENER, ROUTE, SCOPE, XdsResource
from tests.ads.conversation import Conversation, full_name, resource

STARTED = """
    == C+c=1 L+l=1/~t X+t/a=1 X+t/b=1 X+other/a=1
    >> C *
    << C c=1
    >> C ack
    >> L *
    << L l=1/~t
    >> X +t/*
    >> L ack
    << X t/a=1 t/b=1 -t/*
    >> X ack
"""


def started() -> Conversation:
    conversation = Conversation()
    conversation.says(STARTED)
    conversation.events()
    return conversation


def test_another_spelling_means_the_same() -> None:
    """Only the mark differs, and each time it is another one."""
    scope = resource("X", "t/a", "1")

    first, second = respelled(scope, 7), respelled(scope, 8)

    assert len({scope.body, first.body, second.body}) == 3
    read = ScopedRouteConfiguration.FromString(first.body)
    read.route_configuration.ClearField("metadata")
    assert read == ScopedRouteConfiguration.FromString(scope.body)
    assert first.name == scope.name


def test_a_collection_is_answered_by_what_is_in_it() -> None:
    started()


def test_an_empty_collection_is_answered_too() -> None:
    """The listener waits for an answer that names something in the collection."""
    Conversation().says("""
        == L+l=1/~t
        >> C *
        << C
        >> L *
        << L l=1/~t
        >> X +t/*
        >> L ack
        << X -t/*
    """)


def test_what_comes_into_a_collection_is_sent_and_what_leaves_it_is_removed() -> None:
    started().says("""
        == X+t/c=1 X-t/a X+other/c=1
        << X t/c=1
        >> X ack
        << X -t/a
        >> X ack
    """)


def test_removals_alone_are_sent_at_once() -> None:
    started().says("""
        == X-t/a
        << X -t/a
    """)


def test_what_is_back_is_not_removed() -> None:
    """Its removal waited for the answer to the news of the same edit."""
    started().says("""
        == X+t/c=1 X-t/a
        << X t/c=1
        == X+t/a=2
        >> X ack
        << X t/a=2
        >> X ack
    """)


def test_an_envoy_that_has_everything_is_sent_nothing() -> None:
    snapshot = Snapshot()
    Conversation(snapshot).play(STARTED)

    again = Conversation(snapshot)
    again.says("""
        >> C * c=1
        >> L * l=1/~t
        >> X +t/* t/a=1 t/b=1
    """)
    assert again.session.settled(snapshot.seq)


def test_an_envoy_that_reconnects_loses_what_left_meanwhile() -> None:
    """What differs is sent in other bytes: the former stream may have ended after a refusal."""
    snapshot = Snapshot()
    Conversation(snapshot).play(STARTED)

    Conversation(snapshot).says("""
        >> C * c=1
        >> L * l=1/~t
        >> X +t/* t/a=0 t/b=1 t/z=1
        << X t/a=1'
        >> X ack
        << X -t/z
    """)


def test_the_end_of_a_subscription_drops_what_is_in_it() -> None:
    conversation = started()

    conversation.says("""
        >> X -t/*
        == X+t/a=2
        >> X +t/*
        << X t/a=2 t/b=1 -t/*
    """)

    gone = [event.gone for event in conversation.acknowledged()]
    assert gone == [(full_name("X", "t/*"), full_name("X", "t/a"), full_name("X", "t/b"))]


def test_scopes_wait_for_clusters_and_listeners() -> None:
    started().says("""
        == C+d=1 L+l=2/~t X+t/a=2
        << C d=1
        >> C ack
        << L l=2/~t
        >> L ack
        << X t/a=2
    """)


def test_clusters_outlive_the_scopes_that_use_them() -> None:
    started().says("""
        == C-c X+t/a=2
        << X t/a=2
        .. 9
        >> X ack
        .. 9
        << C -c
    """)


def test_an_envoy_that_has_not_asked_for_scopes_yet_is_not_settled() -> None:
    conversation = Conversation()
    conversation.says("""
        == L+l=1/~t X+t/a=1
        >> C *
        << C
        >> L *
        << L l=1/~t
        >> L ack
    """)

    assert not conversation.session.settled(conversation.snapshot.seq)
    assert conversation.session.asks_for(SCOPE, full_name("X", "t/*"))


def test_after_a_refusal_scopes_are_sent_in_other_bytes_until_the_bad_one_is_alone() -> None:
    """Envoy ignores what it has already, and it has the scopes before the bad one."""
    conversation = started()

    conversation.says("""
        == X+t/a=2 X+t/b=bad X+t/c=1 X-t/z
        << X t/a=2 t/b=bad t/c=1
        >> X nack missing ]: [
        << X t/a=2'
        >> X ack
        << X t/b=bad' t/c=1'
        >> X nack missing ]: [
        << X t/b=bad'
        >> X nack missing ]: [
        << X t/c=1'
        >> X ack
        == X+t/a=3 X+t/b=2
        << X t/a=3 t/b=2'
        >> X ack
    """)
    assert not conversation.refused()


def test_removals_come_after_the_search_for_a_bad_scope() -> None:
    """Until then, requests for the removed hostname must not meet an old table of others."""
    started().says("""
        == X+t/_=2 X+t/b=bad X-t/a
        << X t/_=2 t/b=bad
        >> X nack missing ]: [
        << X t/_=2'
        >> X ack
        << X t/b=bad'
        >> X nack missing ]: [
        << X -t/a
    """)


def test_a_scope_with_the_key_of_another_is_found_by_name() -> None:
    name = full_name("X", "t/c")
    other = full_name("X", "t/a")

    started().says(
        f"""
        == X+t/b=2 X+t/c=1
        << X t/b=2 t/c=1
        >> X nack Error adding/updating scoped route(s): scope key conflict found, \
first scope is '{other}', second scope is '{name}'
        << X t/b=2
    """.replace("\\\n", "")
    )


def test_a_table_that_returns_is_sent_before_the_listener() -> None:
    """An old listener that drains keeps the subscription, and Envoy would give it to the new one as it is."""
    started().says("""
        == L+l=2/r R+r=1 X-t/a X-t/b
        << L l=2/r
        >> R +r
        >> L ack
        << R r=1
        << X -t/a -t/b
        >> R ack
        == L+l=3/~t X+t/a=3 X+t/c=3
        >> X ack
        << X t/a=3 t/c=3
        >> X ack
        << L l=3/~t
    """)


def test_a_table_that_returns_before_its_old_scopes_are_removed_waits_for_their_removal() -> None:
    conversation = started()
    conversation.session.hold(SCOPE)
    conversation.says("""
        == L+l=2/r R+r=1 X-t/a X-t/b
        << L l=2/r
        >> R +r
        >> L ack
        << R r=1
        >> R ack
        == L+l=3/~t X+t/a=3
    """)

    conversation.session.release(SCOPE)
    conversation.says("""
        .. 0
        << X t/a=3
        >> X ack
        << X -t/b
        >> X ack
        << L l=3/~t
    """)


def test_hostnames_that_come_and_go_in_a_table_in_use_do_not_return() -> None:
    """A new scope may need a filter that the listener has only since the same edit."""
    started().says("""
        == X-t/a
        << X -t/a
        >> X ack
        == L+l=2/~t X+t/a=2
        << L l=2/~t
        >> L ack
        << X t/a=2
    """)


def test_each_version_of_a_listener_is_read_once() -> None:
    """An Envoy without scopes never asks for them, and that is looked up after each answer."""
    snapshot = Snapshot()
    listener = resource("L", "l", "1/~t")
    unreadable = XdsResource(LISTENER, "l", b"\xff", listener.version)

    assert snapshot.needs(listener, SCOPE)
    assert not snapshot.needs(listener, ROUTE)
    assert snapshot.needs(unreadable, SCOPE), "its version was read already"

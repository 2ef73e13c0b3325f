"""Scopes: subscriptions to collections, the order of what is sent, and what follows a refusal."""

from __future__ import annotations

from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from moongate.ads.parts import MOST
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


FIRST_REFUSED = """
    == C+c=1 L+l=1/~t X+t/_=1 X+t/a=1 X+t/b=bad
    >> C *
    << C c=1
    >> C ack
    >> L *
    << L l=1/~t
    >> X +t/*
    >> L ack
    << X t/_=1 t/a=1 t/b=bad -t/*
    >> X nack missing ]: [
    << X t/a=1' -t/*
    >> X ack
    << X t/b=bad'
    >> X nack missing ]: [
"""
"""The part that others share waits: Envoy has nothing for ``b``."""


def started() -> Conversation:
    conversation = Conversation()
    conversation.says(STARTED)
    conversation.events()
    return conversation


def first_refused() -> Conversation:
    conversation = Conversation()
    conversation.says(FIRST_REFUSED)
    return conversation


def test_another_spelling_means_the_same() -> None:
    """Only the mark differs, and each time it is another one."""
    scope = resource("X", "t/a", "1")

    first, second = respelled(scope, "7"), respelled(scope, "8")

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


def test_clusters_stay_while_a_scope_that_is_back_is_refused() -> None:
    """Envoy has the scope from before the removal still, which may use them."""
    started().says("""
        == C-c X-t/a X+t/b=2
        << X t/b=2
        == X+t/a=bad
        >> X ack
        << X t/a=bad
        >> X nack missing ]: [
        .. 9
        == X+t/a=2
        << X t/a=2
        >> X ack
        .. 9
        << C -c
    """)


def test_clusters_stay_while_an_earlier_scope_of_a_listener_that_drains_is_in_force() -> None:
    """No listener of the fleet needs scopes, so nobody waits for the subscription. The law has shown it."""
    Conversation().says("""
        == C+d=1 X+t/a=bad
        >> C * c=1
        << C d=1
        >> C ack
        >> L *
        << L
        >> X +t/*
        << X t/a=bad' -t/*
        >> X nack missing ]: [
        << X -t/*
        >> L ack
        >> X ack
        .. 60
        >> X -t/*
        .. 5
        << C -c
    """)


def test_clusters_stay_of_earlier_scopes_whatever_was_published_before_envoy_asked_for_them() -> None:
    Conversation().says("""
        == C+d=1 L+l=1/~t X+t/a=1
        >> C * c=1
        << C d=1
        >> C ack
        >> L *
        << L l=1/~t
        == X+t/a=bad
        >> X +t/*
        >> L ack
        << X t/a=bad' -t/*
        >> X nack missing ]: [
        << X -t/*
        >> X ack
        .. 60
    """)


def test_an_envoy_that_has_everything_is_sent_nothing() -> None:
    snapshot = Snapshot()
    Conversation(snapshot).play(STARTED)

    Conversation(snapshot).says("""
        >> C * c=1
        >> L * l=1/~t
        >> X +t/* t/a=1 t/b=1
    """)


def test_an_envoy_that_says_what_it_has_loses_what_left_meanwhile() -> None:
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


def test_an_envoy_that_connects_again_is_sent_all_in_other_bytes_and_loses_what_left() -> None:
    """It does not say which scopes it has. And the former stream may have ended after a refusal."""
    snapshot = Snapshot()
    former = Conversation(snapshot)
    former.play(STARTED)
    former.play("== X-t/a X+t/z=1")

    Conversation(snapshot).says("""
        == X-t/z
        >> C * c=1
        >> L * l=1/~t
        >> X +t/*
        << X t/b=1' -t/*
        >> X ack
        << X -t/a -t/z
        >> X ack
        == X+t/a=2
        << X t/a=2
    """)


def test_an_envoy_that_asks_for_scopes_first_has_been_connected_before() -> None:
    """A new one asks for what its listeners need."""
    snapshot = Snapshot()
    Conversation(snapshot).play(STARTED)

    Conversation(snapshot).says("""
        >> X +t/*
        >> C *
        << C c=1
        >> C ack
        >> L *
        << L l=1/~t
        >> L ack
        << X t/a=1' t/b=1' -t/*
    """)


def test_what_an_envoy_has_for_certain_is_sent_in_other_bytes_if_it_is_back_before_it_is_removed() -> None:
    """Envoy may have kept it of a refused response."""
    conversation = started()
    names = conversation.snapshot.depart([full_name("X", "t/old")])
    conversation.session.may_have(names)

    conversation.says("""
        == X+t/old=1
        << X t/old=1'
        >> X ack
    """)


def test_what_leaves_right_after_a_reconnection_is_removed_too() -> None:
    snapshot = Snapshot()
    Conversation(snapshot).play(STARTED)

    Conversation(snapshot).says("""
        >> C * c=1
        == C+c=2
        << C c=2
        >> L * l=1/~t
        >> X +t/*
        == X-t/a
        >> C ack
        << X t/b=1' -t/*
        >> X ack
        << X -t/a
    """)


def test_what_is_back_in_a_table_is_not_removed_when_envoy_connects_again() -> None:
    snapshot = Snapshot()
    former = Conversation(snapshot)
    former.play(STARTED)
    former.play("== X-t/a")
    former.play("== X+t/a=1")

    Conversation(snapshot).says("""
        >> C * c=1
        >> L * l=1/~t
        >> X +t/*
        << X t/a=1' t/b=1' -t/*
        >> X ack
    """)


def test_a_table_that_returns_after_a_reconnection_is_sent_before_the_listener() -> None:
    """An old listener still has it."""
    snapshot = Snapshot()
    former = Conversation(snapshot)
    former.play(STARTED)
    former.play("== L+l=2/r R+r=1 X-t/a X-t/b")

    Conversation(snapshot).says("""
        >> C * c=1
        >> L * l=2/r
        >> R +r r=1
        >> X +t/*
        << X -t/* -t/a -t/b
        >> X ack
        == L+l=3/~t X+t/a=3
        << X t/a=3
        >> X ack
        << L l=3/~t
    """)


def test_a_response_under_way_may_be_refused_for_a_new_subscription() -> None:
    """So what it has is sent in other bytes, though the former subscription is forgotten."""
    started().says("""
        == X+t/a=2 X+t/b=bad
        << X t/a=2 t/b=bad
        >> X -t/*
        >> X +t/*
        == X+t/b=2 X+t/c=1
        >> X nack missing ]: [
        << X t/a=2' t/b=2' t/c=1 -t/*
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
        << X t/b=bad'
        >> X nack missing ]: [
        << X t/_=2'
        >> X ack
        << X -t/a
    """)


def test_what_a_response_under_way_brings_to_a_new_subscription_is_removed_if_it_has_left() -> None:
    started().says("""
        == X+t/a=2 X+t/c=1
        << X t/a=2 t/c=1
        == X-t/c
        >> X -t/*
        >> X +t/*
        >> X ack
        << X t/a=2' t/b=1 -t/*
        >> X ack
        << X -t/c
    """)


def test_clusters_stay_that_a_response_under_way_to_a_new_subscription_uses() -> None:
    started().says("""
        == C+d=1 X+t/c=d
        << C d=1
        >> C ack
        << X t/c=d
        == C-d X+t/c=bad
        >> X -t/*
        >> X +t/*
        >> X ack
        << X t/a=1 t/b=1 t/c=bad' -t/*
        >> X nack missing ]: [
        << X t/a=1' -t/*
        >> X ack
        << X t/b=1' t/c=bad'
        >> X nack missing ]: [
        << X t/b=1'
        >> X ack
        << X t/c=bad'
        >> X nack missing ]: [
        .. 9
        == X+t/c=2
        << X t/c=2'
        >> X ack
        .. 9
        << C -d
    """)


def test_what_others_share_comes_last_after_a_refusal() -> None:
    """Else it would answer for hostnames whose own part protects them."""
    conversation = Conversation()
    conversation.says("""
        == C+c=1 L+l=1/~t L+m=1/~u X+t/_=1 X+t/a=1 X+t/b=1 X+t/c=bad X+u/_=1 X+u/a=bad
        >> C *
        << C c=1
        >> C ack
        >> L *
        << L l=1/~t m=1/~u
        >> X +t/* +u/*
        >> L ack
        << X t/_=1 t/a=1 t/b=1 t/c=bad u/_=1 u/a=bad -t/* -u/*
        >> X nack missing ]: [
        << X t/a=1' t/b=1' -t/* -u/*
        >> X ack
        << X t/c=bad' u/a=bad'
        >> X nack missing ]: [
        << X t/c=bad'
        >> X nack missing ]: [
        << X u/a=bad'
        >> X nack missing ]: [
        == X+t/c=1 X+u/a=1
        << X t/_=1' t/c=1' u/_=1' u/a=1'
        >> X ack
    """)


def test_refused_parts_that_others_share_are_found_among_each_other() -> None:
    conversation = Conversation()
    conversation.says("""
        == L+l=1/~t L+m=1/~u X+t/_=bad X+u/_=1
        >> C *
        << C
        >> C ack
        >> L *
        << L l=1/~t m=1/~u
        >> X +t/* +u/*
        >> L ack
        << X t/_=bad u/_=1 -t/* -u/*
        >> X nack missing ]: [
        << X t/_=bad' -t/* -u/*
        >> X nack missing ]: [
        << X -t/* -u/*
        >> X ack
        << X u/_=1'
        >> X ack
    """)
    assert conversation.refused() == {full_name("X", "t/_"): "bad"}


def test_what_others_share_waits_until_the_refused_part_is_mended() -> None:
    conversation = first_refused()

    assert not conversation.session.settled(conversation.snapshot.seq)
    conversation.says("""
        .. 20
        == X+t/_=2
        == X+t/b=500
        << X t/_=2' t/b=500'
        >> X ack
    """)


def test_what_others_share_waits_for_a_bounded_time() -> None:
    """One hostname that nobody can mend does not keep all wildcards from being served."""
    conversation = first_refused()

    assert conversation.session.wake_at(conversation.now) == 30
    conversation.says("""
        .. 29
        == X+t/b=bad2
        << X t/_=1' t/b=bad2'
        >> X nack missing ]: [
        << X t/b=bad2'
        >> X nack missing ]: [
        .. 1
        << X t/_=1'
        >> X ack
    """)
    assert conversation.session.wake_at(conversation.now) is None


def test_what_others_share_goes_out_when_the_refused_part_leaves() -> None:
    first_refused().says("""
        == X-t/b
        << X t/_=1'
    """)


def test_what_others_share_waits_again_if_it_left_meanwhile() -> None:
    conversation = first_refused()
    conversation.says("""
        == X-t/_
        << X -t/_
        >> X ack
        .. 40
        == X+t/_=1
        .. 29
        .. 1
        << X t/_=1
    """)


def test_what_envoy_may_have_kept_of_a_refused_response_is_removed_when_it_leaves() -> None:
    """If it came back later in the bytes that Envoy has kept, Envoy would not use it."""
    conversation = first_refused()
    conversation.says("""
        == X-t/b
        << X t/_=1'
        >> X ack
        << X -t/b
        >> X ack
        == X+t/b=bad
        << X t/b=bad
    """)


def test_removals_wait_with_what_others_share() -> None:
    """Else requests for the hostname would meet nothing."""
    first_refused().says("""
        == X-t/a
        .. 1
        == X+t/b=500
        << X t/_=1' t/b=500'
        >> X ack
        << X -t/a
    """)


def test_removals_wait_while_what_others_share_is_refused() -> None:
    """A hostname loses its guarded part, and the wildcard that is to answer gets its guard only now."""
    conversation = first_refused()
    conversation.play("== X+t/b=1")
    conversation.play(">> X ack")
    conversation.says("""
        == X+t/_=bad X-t/a
        << X t/_=bad
        >> X nack missing ]: [
        .. 20
        == X+t/_=guarded
        << X t/_=guarded
        >> X ack
        << X -t/a
        >> X ack
    """)


def test_removals_wait_for_a_bounded_time() -> None:
    conversation = first_refused()
    conversation.play("== X+t/b=1")
    conversation.play(">> X ack")
    conversation.says("""
        == X+t/_=bad X-t/a
        << X t/_=bad
        >> X nack missing ]: [
        .. 29
        .. 1
        << X -t/a
    """)


def test_a_table_leaves_at_once_also_while_what_others_share_is_refused() -> None:
    """Nothing is left that could answer for its hostnames."""
    conversation = first_refused()
    conversation.play("== X+t/b=1")
    conversation.play(">> X ack")
    conversation.says("""
        == X+t/_=bad
        << X t/_=bad
        >> X nack missing ]: [
        == X-t/_ X-t/a X-t/b
        << X -t/_ -t/a -t/b
        >> X ack
    """)


def test_another_table_does_not_wait() -> None:
    first_refused().says("""
        == L+m=1/~u X+u/_=1 X+u/a=1
        << L m=1/~u
        >> X +u/*
        >> L ack
        << X u/_=1 u/a=1 -u/*
        >> X ack
        == X-u/a
        << X -u/a
    """)


def test_what_others_share_in_force_does_not_wait_for_a_new_part() -> None:
    """Requests for the new hostname are answered as before."""
    conversation = first_refused()
    conversation.play("== X+t/b=1")
    conversation.play(">> X ack")

    conversation.says("""
        == X+t/_=2 X+t/c=bad
        << X t/_=2 t/c=bad
        >> X nack missing ]: [
        << X t/c=bad'
        >> X nack missing ]: [
        << X t/_=2'
    """)


def test_a_new_subscription_begins_anew() -> None:
    """Envoy has dropped all, and the time begins again."""
    first_refused().says("""
        .. 20
        >> X -t/*
        >> X +t/*
        << X t/_=1 t/a=1 t/b=bad -t/*
        >> X nack missing ]: [
        << X t/a=1' -t/*
        >> X ack
        << X t/b=bad'
        >> X nack missing ]: [
        .. 20
        .. 10
        << X t/_=1'
    """)


def test_what_others_share_waits_in_a_table_that_returns() -> None:
    """The old one is in force, and none of the listeners in force uses it."""
    conversation = Conversation()
    conversation.play(STARTED)
    conversation.play("== X+t/_=1")
    conversation.play(">> X ack")
    conversation.session.hold(SCOPE)
    conversation.says("""
        == L+l=2/r R+r=1 X-t/_ X-t/a X-t/b
        << L l=2/r
        >> R +r
        >> L ack
        << R r=1
        >> R ack
        == L+l=3/~t X+t/_=3 X+t/c=bad
    """)

    conversation.session.release(SCOPE)
    conversation.says("""
        .. 0
        << X t/_=3 t/c=bad
        >> X nack missing ]: [
        << X t/c=bad'
        >> X nack missing ]: [
        == X+t/c=500
        << X t/_=3' t/c=500'
        >> X ack
        << X -t/a -t/b
        >> X ack
        << L l=3/~t
    """)


def test_a_hostname_that_comes_while_its_table_returns_comes_with_what_others_share() -> None:
    conversation = Conversation()
    conversation.play(STARTED)
    conversation.says("""
        == L+l=2/r R+r=1 X-t/a X-t/b
        << L l=2/r
        >> R +r
        >> L ack
        << R r=1
        << X -t/a -t/b
        >> R ack
        == L+l=3/~t X+t/_=3
        == X+t/_=4 X+t/c=4
        >> X ack
        << X t/_=4 t/c=4
        >> X ack
        << L l=3/~t
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


def test_what_others_share_waits_for_a_part_that_is_refused_by_name() -> None:
    name = full_name("X", "t/c")
    other = full_name("X", "t/a")

    conversation = started()
    conversation.says(
        f"""
        == X+t/_=1 X+t/b=2 X+t/c=1
        << X t/_=1 t/b=2 t/c=1
        >> X nack Error adding/updating scoped route(s): scope key conflict found, \
first scope is '{other}', second scope is '{name}'
        << X t/b=2
        >> X ack
        == X+t/c=2
        << X t/_=1 t/c=2
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


def test_of_many_scopes_the_one_that_others_share_comes_last_and_removals_after_it() -> None:
    """It answers for hostnames without a scope, so it must not know of an edit before their scopes do."""
    conversation = started()
    many = [f"m{n:03}" for n in range(MOST[SCOPE])]

    first = conversation.play("== X+t/_=2 X-t/a " + " ".join(f"X+t/{name}=2" for name in many))

    assert first.splitlines()[1] == "<< X " + " ".join(f"t/{name}=2" for name in many)
    conversation.says("""
        >> X ack
        << X t/_=2
        >> X ack
        << X -t/a
    """)

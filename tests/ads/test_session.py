"""What a session sends, and when."""

from __future__ import annotations

from math import ceil

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from moongate.ads.events import Acknowledged, Nacked
from moongate.ads.parts import MOST
from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests.ads.conversation import COLD_START, Conversation, content, edit, resource, versions


def test_a_cold_envoy_gets_each_type_as_it_asks(envoy: Conversation) -> None:
    """As recorded from Envoy 1.40, which asks for listeners only when its clusters are there."""
    envoy.says(COLD_START)

    assert envoy.session.settled(envoy.snapshot.seq)


def test_a_change_sends_the_difference_only(served: Conversation) -> None:
    served.says("""
        == C+b=1 E+b=1 R+r=2
        << C b=1
        >> E +b
        << E b=1
        >> E ack
        >> C ack
        << R r=2
        >> R ack
    """)


def test_an_equal_resource_is_no_change(served: Conversation) -> None:
    served.says("""
        == C+a=1 E+a=1 L+l=1 R+r=1
    """)


def test_nothing_is_said_to_a_fleet_that_nobody_published(envoy: Conversation) -> None:
    """An empty answer would make Envoy start with nothing, and its probes fail."""
    envoy.says("""
        >> C *
        == C+a=1
        << C a=1
    """)


def test_an_empty_fleet_is_answered_so_that_envoy_starts(envoy: Conversation) -> None:
    envoy.says("""
        ==
        >> C *
        << C
        >> C ack
        >> L
        << L
        >> L ack
        == L+l=1
        << L l=1
    """)


def test_a_reconnecting_envoy_gets_only_the_rest() -> None:
    again = Conversation()
    again.says("""
        == C+a=1 C+b=2 E+a=1 E+b=1 L+l=1 R+r=1
        >> C * a=1 b=1
        << C b=2
        >> E +a=1 +b=1
        << E b=1
        >> L l=1
        >> R +r=1
        >> C ack
        >> E ack
    """)

    assert again.session.settled(again.snapshot.seq)


def test_what_a_reconnecting_envoy_has_is_a_fact_though_nothing_is_sent() -> None:
    """Its acknowledgement may have been lost with the former stream. Older versions are facts, too."""
    again = Conversation()
    again.play("""
        == C+a=1 C+b=2 L+l=1 R+r=1
        >> C * a=1 b=1 gone=1
        >> L
        >> R +r=1
    """)

    assert [(each.type_url, each.versions) for each in again.acknowledged()] == [
        (CLUSTER, versions("C", a="1", b="1", gone="1")),
        (ROUTE, versions("R", r="1")),
    ]


def test_an_envoy_that_has_already_what_comes_is_a_fact_too(served: Conversation) -> None:
    """Whoever compares what it has with what it should have hears of every time at which they are equal."""
    served.play("""
        == R+r=2
        == R+r=1
    """)
    assert served.acknowledged() == []

    served.play(">> R ack")
    served.play(">> R ack")

    assert [each.versions for each in served.acknowledged()] == [versions("R", r="2"), versions("R", r="1")]
    served.says("""
        == C+b=1 R+r=2
        << C b=1
        == R+r=1
        >> C ack
    """)
    assert [each.versions for each in served.acknowledged()] == [versions("C", b="1"), versions("R", r="1")]


def test_a_reconnecting_envoy_has_nothing_of_what_it_does_not_ask_for() -> None:
    """It has dropped it by then, and would not hear of it again."""
    again = Conversation()
    again.play("""
        == E+a=1 E+b=1
        >> E +a=1 b=1
    """)

    assert [each.versions for each in again.acknowledged()] == [versions("E", a="1")]


def test_a_reconnecting_envoy_is_not_settled_before_it_asked_for_its_routes() -> None:
    """Its requests come one after the other; what the listeners need is asked for last."""
    again = Conversation()
    again.play("""
        == C+a=1 E+a=1 L+l=1 R+r=2
        >> C * a=1
        >> E +a=1
        >> L l=1
    """)
    assert not again.session.settled(again.snapshot.seq)

    again.play("""
        >> R +r=1
        >> R ack
    """)
    assert again.session.settled(again.snapshot.seq)


def test_what_left_while_an_envoy_was_away_lingers_for_it_too() -> None:
    """Its routes are older than the clusters that are gone: removing these first would cost requests."""
    Conversation().says("""
        == C+b=1 E+b=1 L+l=1 R+r=2
        >> C * a=1
        << C b=1
        >> C ack
        .. 60
        >> L l=1
        >> R +r=1
        << R r=2
        .. 60
        >> R ack
        .. 4
        .. 1
        << C -a
    """)


def test_clusters_of_an_envoy_that_comes_back_outlive_its_listeners_also_when_all_is_gone() -> None:
    """It asks for clusters first. Nothing should be there, so nobody but the Envoy knows of its listeners."""
    again = Conversation()
    again.says("""
        ==
        >> C * a=1
        .. 60
        >> L l=1
        << L -l
        .. 60
        >> L ack
        .. 5
        << C -a
    """)


# Make before break


def test_routes_wait_for_the_clusters_and_endpoints_of_their_edit(served: Conversation) -> None:
    served.says("""
        == R+r=2 C+b=1 E+b=1 E+a=2
        << C b=1
        << E a=2
        >> C ack
        >> E ack
        << R r=2
    """)


def test_a_new_listener_waits_for_clusters_like_a_route(served: Conversation) -> None:
    served.says("""
        == C+b=1 L+m=1
        << C b=1
        >> C ack
        << L m=1
    """)


def test_endpoints_and_secrets_flow_while_a_cluster_warms(served: Conversation) -> None:
    """Envoy holds its ACK back until the cluster is warm, which needs both."""
    served.says("""
        == C+b=1 E+b=1 S+s=1
        << C b=1
        >> E +b
        << E b=1
        >> S +s
        << S s=1
        >> E ack
        >> S ack
        >> C ack
    """)


def test_endpoints_have_the_fast_lane(served: Conversation) -> None:
    served.says("""
        == C+b=1 R+r=2
        << C b=1
        == E+a=2
        << E a=2
        >> E ack
        == E+a=3
        << E a=3
    """)


def test_endpoints_are_sent_again_with_their_changed_cluster(served: Conversation) -> None:
    """Envoy warms a changed cluster from nothing, but does not ask again for what it is subscribed to."""
    served.says("""
        == C+a=2
        << C a=2
        << E a=1
    """)


def test_routes_move_on_under_a_flood_of_new_clusters(served: Conversation) -> None:
    """The cut that waited leaves with its own bytes; the later one would wait for clusters without end."""
    served.says("""
        == C+b=1 R+r=2
        << C b=1
        == C+c=1 R+r=3
        >> C ack
        << C c=1
        << R r=2
        == C+d=1 R+r=4
        >> R ack
        >> C ack
        << C d=1
        == C+e=1 R+r=5
        >> C ack
        << C e=1
        << R r=4
    """)


def test_routes_are_not_cut_where_their_cluster_came_and_went(served: Conversation) -> None:
    """Cluster c was never sent, so routes that refer to it must not be either. The law has shown it."""
    served.says("""
        == C+b=1 E+b=1
        << C b=1
        == C+c=1 E+c=1 R+r=to-c
        == C-c E-c R+r=to-b
        >> C ack
        << R r=to-b
    """)


def test_what_is_cut_anew_is_as_old_as_it_was(served: Conversation) -> None:
    """Otherwise its first edit would count as served, and what that edit dropped would go too early."""
    served.says("""
        == C+b=1 E+b=1 R+r=to-b C-a E-a
        << C b=1
        >> E +b
        << E b=1
        >> E ack
        == C+c=1
        == C-c
        >> C ack
        << R r=to-b
        .. 60
    """)
    first = served.snapshot.seq - 2

    assert not served.session.settled(first)
    served.says("""
        >> R ack
        .. 5
        << C -a
    """)


def test_the_newest_routes_are_sent_when_nothing_holds_them(served: Conversation) -> None:
    served.says("""
        == C+b=1 R+r=2
        << C b=1
        == R+r=3
        >> C ack
        << R r=3
    """)


def test_a_cluster_leaves_a_while_after_the_routes_did(served: Conversation) -> None:
    served.says("""
        == C+b=1 E+b=1 R+r=2 C-a E-a
        << C b=1
        >> C ack
        << R r=2
        .. 60
        >> R ack
        .. 4
        .. 1
        << C -a
        >> E -a
        >> C ack
    """)


def test_what_a_cluster_used_stays_until_the_changed_one_is_acknowledged(served: Conversation) -> None:
    """It may ask for other secrets, and for endpoints of another name. The old one is in use meanwhile."""
    served.play("""
        == S+s=1 E+o=1
        >> S +s
        >> S ack
        >> E +o
        >> E ack
    """)
    served.says("""
        == C+a=2 E-o S-s
        << C a=2
        << E a=1
        >> E ack
        .. 20
        >> C ack
        .. 5
        << E -o
        << S -s
    """)


def test_wake_at_is_when_the_linger_ends(served: Conversation) -> None:
    served.play("== R+r=2 C-a E-a")
    assert served.session.wake_at(served.now) is None

    served.play(">> R ack")
    assert served.session.wake_at(served.now) == 5


def test_what_is_due_behind_an_answer_wakes_nobody(served: Conversation) -> None:
    """Its time is over, yet nothing can be said: the server would turn in circles until Envoy answers."""
    served.play("""
        == R+r=2 C-a E-a
        >> R ack
        .. 4
        == C+b=1
        .. 2
    """)
    assert served.session.wake_at(served.now) is None, "b is warming, so nothing is said about clusters"

    served.says("""
        >> C ack
        << C -a
    """)
    assert served.session.wake_at(served.now) is None, "endpoints leave after their cluster"

    served.says("""
        >> C ack
        << E -a
    """)


def test_endpoints_that_left_before_their_cluster_wake_nobody_while_it_waits(served: Conversation) -> None:
    """Endpoints are due at 5, and wait for the cluster, which waits for an answer about another."""
    served.play("""
        == E-a
        .. 1
        == C-a
        == C+b=1
        .. 6
    """)

    assert served.session.wake_at(served.now) is None

    served.says("""
        >> C ack
        << C -a
        >> C ack
        << E -a
    """)


def test_what_lingers_counts_as_settled(served: Conversation) -> None:
    served.play("""
        == R+r=2 C-a E-a
        >> R ack
    """)

    assert served.session.settled(served.snapshot.seq)


def test_coming_back_cancels_the_removal(served: Conversation) -> None:
    served.says("""
        == C-a E-a
        .. 3
        == C+a=1 E+a=2
        << E a=2
        >> E ack
        .. 60
    """)


def test_a_listener_that_is_gone_leaves_with_the_switch(served: Conversation) -> None:
    """Its address may be needed by its successor: Envoy applies removals first."""
    served.says("""
        == L-l L+m=1
        << L m=1 -l
    """)


def test_secrets_and_routes_leave_after_listeners(served: Conversation) -> None:
    served.says("""
        == S+s=1
        >> S +s
        << S s=1
        >> S ack
        == S-s R-r L+l=2
        << L l=2
        .. 9
        >> L ack
        .. 5
        << S -s
        << R -r
    """)


def test_a_cluster_that_leaves_keeps_its_endpoints_until_routes_have_switched(served: Conversation) -> None:
    """It may leave because the last of them is gone; to empty it first would fail what still goes there."""
    served.says("""
        == C-a E-a R+r=to-b C+b=1 E+b=1
        << C b=1
        >> E +b
        << E b=1
        >> E ack
        >> C ack
        << R r=to-b
        >> R ack
        .. 5
        << C -a
        >> E -a
        >> C ack
    """)


def test_a_cluster_that_goes_before_its_endpoints_were_sent_gets_them_all_the_same(
    served: Conversation,
) -> None:
    """The routes that were cut for it are under way, and warm with nobody in it, it would answer 503."""
    served.says("""
        == E+a=2
        << E a=2
        == C+a=2 C+b=1 E+b=1
        << C a=2 b=1
        == C-a E-a C-b E-b
        >> E ack +b
        << E a=2 b=1
        >> E ack
        >> C ack
    """)


def test_endpoints_leave_after_their_clusters(served: Conversation) -> None:
    """Envoy drops its subscription with the cluster, so mostly they need not be removed at all."""
    served.says("""
        == C-a E-a
        .. 5
        << C -a
        >> C ack
        << E -a
    """)


def test_a_cluster_that_never_warms_does_not_hold_routes_forever(served: Conversation) -> None:
    """With initial_fetch_timeout 0 a missing secret keeps a cluster warming without end."""
    served.says("""
        == C+b=1 R+r=2
        << C b=1
        >> S +missing
        << S -missing
        >> S ack
        .. 29
        .. 1
        << R r=2
        >> R ack
        >> C ack
    """)


def test_wake_at_is_when_patience_with_a_warming_cluster_ends(served: Conversation) -> None:
    served.play("== C+b=1")
    assert served.session.wake_at(served.now) is None

    served.play("""
        .. 1
        >> S +missing
    """)
    assert served.session.wake_at(served.now) == 31


def test_a_silent_envoy_is_slow_not_warming(served: Conversation) -> None:
    """Stopped, it would find routes behind clusters that it had no time to warm; going on, it has time."""
    served.says("""
        == C+b=1 R+r=2 E+a=2
        << C b=1
        << E a=2
        .. 300
        >> E ack
        .. 29
        .. 1
        << R r=2
    """)


# Listeners before routes


def test_routes_wait_for_the_listeners_of_their_edit(served: Conversation) -> None:
    """A route may rely on a filter that only the new listener has, such as one that asks for a password."""
    served.says("""
        == L+l=2 R+r=2
        << L l=2
        >> L ack
        << R r=2
    """)


def test_routes_do_not_wait_for_listeners_of_later_edits(served: Conversation) -> None:
    """A Gateway whose listeners change all the time must not keep its routes from changing."""
    served.says("""
        == L+l=2 R+r=2
        << L l=2
        == L+l=3
        >> L ack
        << L l=3
        << R r=2
        == L+l=4 R+r=4
        >> R ack
        >> L ack
        << L l=4
        == L+l=5 R+r=5
        >> L ack
        << L l=5
        << R r=4
    """)


def test_routes_do_not_wait_for_a_listener_that_is_refused(served: Conversation) -> None:
    """What they need of it is for others to see to: the refusal is an event."""
    served.says("""
        == L+l=2 R+r=2
        << L l=2
        >> L nack no
        << R r=2
    """)


def test_routes_wait_for_the_secrets_that_their_listeners_ask_for(served: Conversation) -> None:
    """Envoy acknowledges a listener before it has its secrets, but uses it only when it has them."""
    served.says("""
        == L+l=2 R+r=2 S+s=1
        << L l=2
        >> S +s
        << S s=1
        >> L ack
        >> S ack
        << R r=2
    """)


def test_listeners_wait_for_the_secrets_of_the_same_change(served: Conversation) -> None:
    """A chain that was made for other authorities must take nobody by the former ones."""
    served.says("""
        == S+s=1
        >> S +s
        << S s=1
        == S+s=2 L+l=2
        >> S ack
        << S s=2
        >> S ack
        << L l=2
    """)


def test_listeners_do_not_wait_for_secrets_that_they_will_ask_for(served: Conversation) -> None:
    served.says("""
        == S+s=1 L+l=2
        << L l=2
        >> S +s
        << S s=1
        == L+m=1
        >> L ack
        >> S nack odd
        << L m=1
    """)


def test_routes_do_not_wait_for_secrets_that_do_not_exist(served: Conversation) -> None:
    served.says("""
        == L+l=2 R+r=2
        << L l=2
        >> S +missing
        << S -missing
        >> L ack
        >> S ack
        << R r=2
    """)


def test_a_new_table_goes_out_when_its_listener_is_acknowledged(served: Conversation) -> None:
    """Envoy acknowledges a listener and lets it wait for its routes: the two do not wait for each other."""
    served.says("""
        == L+m=1 R+s=1
        << L m=1
        >> R +s
        >> L ack
        << R s=1
    """)


def test_an_envoy_that_never_answers_a_listener_does_not_hold_routes_forever(served: Conversation) -> None:
    served.says("""
        == L+l=2 R+r=2
        << L l=2
        >> S +missing
        << S -missing
        >> S ack
        .. 29
        .. 1
        << R r=2
    """)


def test_a_reconnecting_envoy_gets_its_listeners_before_its_routes() -> None:
    """In whatever order it asks: the routes may rely on what the listeners have only now."""
    Conversation().says("""
        == L+l=2 R+r=2
        >> C *
        << C
        >> C ack
        >> R +r=1
        >> L l=1
        << L l=2
        >> L ack
        << R r=2
    """)


def test_a_table_does_not_return_when_it_is_published_for_the_first_time() -> None:
    """When moongate starts anew, Envoys are there before their fleets are. Their listeners use the tables."""
    again = Conversation()
    again.says("""
        >> C * a=1
        >> L l=1
        >> R +r=1
        == C+a=1 L+l=2 R+r=2
        << L l=2
        >> L ack
        << R r=2
    """)


def test_held_routes_leave_as_they_are_when_they_are_released(served: Conversation) -> None:
    """A listener was refused; routes that need what it lacks are built anew, and the former ones not sent."""
    served.play("== L+l=2 R+r=2")
    served.session.hold(ROUTE)
    served.says("""
        >> L nack no
        == R+r=3 E+a=2
        << E a=2
        >> E ack
    """)
    assert not served.session.settled(served.snapshot.seq)

    served.session.release(ROUTE)
    served.says("""
        == S+s=1
        << R r=3
        >> R ack
    """)
    assert served.session.settled(served.snapshot.seq)


def test_held_listeners_leave_as_they_are_when_they_are_released(served: Conversation) -> None:
    """An Envoy that starts is to take a port over. Routes wait for the listeners that they are meant for."""
    served.session.hold(LISTENER)
    served.says("""
        == L-l L+m=1 R+r=2 E+a=2
        << E a=2
        >> E ack
        == L+m=2
    """)
    assert not served.session.settled(served.snapshot.seq)

    served.session.release(LISTENER)
    served.says("""
        == S+s=1
        << L m=2 -l
        >> L ack
        << R r=2
        >> R ack
    """)
    assert served.session.settled(served.snapshot.seq)


def test_a_listener_that_envoy_drops_after_its_acknowledgement_is_refused(served: Conversation) -> None:
    """Envoy opens a port in two steps, and the second one comes later; its log alone says that it failed."""
    served.session.dropped(LISTENER, "l", "in use")
    served.says("")
    assert served.refused() == {"l": "1"}

    served.session.retry(LISTENER, "l")
    served.says("""
        == S+s=1
        << L l=1
        >> L ack
    """)
    assert served.refused() == {}


def test_a_former_version_that_envoy_drops_leaves_the_newest_unrefused(served: Conversation) -> None:
    served.play("== L+l=2")
    served.session.dropped(LISTENER, "l", "in use")

    served.says(">> L ack")

    assert served.refused() == {}
    assert served.session.acknowledged_version(LISTENER, "l") == served.snapshot.of(LISTENER)["l"].version


def test_what_envoy_never_had_is_not_dropped(served: Conversation) -> None:
    served.session.dropped(LISTENER, "other", "in use")
    served.session.dropped("no.such.Type", "l", "in use")

    assert served.refused() == {}


def test_parts_of_refused_routes_are_held_too(served: Conversation) -> None:
    served.play("""
        == R+s=1
        >> R +s
        >> R ack
        == R+r=2 R+s=2
    """)
    served.session.hold(ROUTE)
    served.says("""
        >> R nack no
        == R+s=3
    """)
    served.session.release(ROUTE)
    served.says("""
        == E+other=1
        << R r=2 s=3
    """)


# Bursts


def test_changes_gather_while_a_response_is_in_flight(served: Conversation) -> None:
    served.says("""
        == E+a=2
        << E a=2
        == E+a=3
        == E+a=4
        >> E ack
        << E a=4
    """)


def test_a_change_that_is_undone_in_time_is_not_sent(served: Conversation) -> None:
    served.says("""
        == C+b=1 R+r=2
        << C b=1
        == R+r=1
        >> C ack
    """)


def test_an_edit_is_not_settled_before_its_ack(served: Conversation) -> None:
    served.play("== E+a=2")
    assert not served.session.settled(served.snapshot.seq)

    served.play(">> E ack")
    assert served.session.settled(served.snapshot.seq)


def test_later_edits_do_not_keep_earlier_ones_from_being_settled(served: Conversation) -> None:
    served.play("== E+a=2")
    seq = served.snapshot.seq
    served.play("""
        == E+a=3
        >> E ack
    """)

    assert served.session.settled(seq)
    assert not served.session.settled(served.snapshot.seq)


def test_an_envoy_has_switched_when_it_has_answered_for_its_listeners_and_routes(
    served: Conversation,
) -> None:
    """What else it owes an answer for does not matter, nor do later edits."""
    served.play("== R+r=2")
    first = served.snapshot.seq
    before = served.session.has_switched(first)
    served.play(">> R ack")
    after = served.session.has_switched(first)
    served.play("== E+a=2")
    with_endpoints = served.session.has_switched(served.snapshot.seq)
    served.play("== R+r=3")

    assert [before, after, with_endpoints] == [False, True, True]
    assert not served.session.settled(served.snapshot.seq)
    assert served.session.has_switched(first)
    assert not served.session.has_switched(served.snapshot.seq)


def test_a_reconnecting_envoy_has_not_switched_before_it_asked_for_its_routes() -> None:
    """It still has those from before."""
    former = Conversation()
    former.play(COLD_START)
    again = Conversation(former.snapshot)
    edit(again.snapshot, "R+r=2")

    assert not again.session.has_switched(again.snapshot.seq)


# Subscriptions


def test_only_names_that_were_asked_for_are_sent(served: Conversation) -> None:
    served.says("""
        == E+other=1 R+other=1
    """)


def test_asking_again_is_answered_again(served: Conversation) -> None:
    served.says("""
        >> E +a
        << E a=1
    """)


def test_asking_again_during_the_flight_is_answered_again(served: Conversation) -> None:
    """The client may have dropped what was on its way."""
    served.says("""
        == E+a=2
        << E a=2
        >> E +a
        >> E ack
        << E a=2
    """)


def test_a_missing_name_is_answered_so_that_envoy_goes_on(served: Conversation) -> None:
    served.says("""
        >> E +nowhere
        << E -nowhere
        >> E ack
        == E+nowhere=1
        << E nowhere=1
    """)


def test_what_envoy_no_longer_asks_for_is_reported_as_gone(served: Conversation) -> None:
    """Others keep something up to date only as long as some Envoy asks for it."""
    served.events()
    assert served.session.asks_for(ROUTE, "r")

    served.play(">> R -r")

    (event,) = served.acknowledged()
    assert (event.type_url, event.versions, event.gone) == (ROUTE, (), ("r",))
    assert not served.session.asks_for(ROUTE, "r")


def test_an_envoy_may_ask_for_routes_until_it_has_asked_for_its_first() -> None:
    conversation = Conversation()
    conversation.play("""
        == L+l
        >> C *
        >> L *
        >> L ack
    """)
    assert conversation.session.asks_for(ROUTE, "r")

    conversation.play(">> R other")
    assert not conversation.session.asks_for(ROUTE, "r")


def test_nothing_is_sent_after_unsubscribing(served: Conversation) -> None:
    served.says("""
        >> E -a
        == E+a=2
    """)


def test_names_beside_the_wildcard_are_sent_again_when_dropped(envoy: Conversation) -> None:
    """The client forgot the name, though the wildcard matches it."""
    envoy.says("""
        == C+a=1 C+b=1
        >> C * +a
        << C a=1 b=1
        >> C ack
        >> C -a
        << C a=1
    """)


def test_leaving_the_wildcard_keeps_the_names(envoy: Conversation) -> None:
    envoy.says("""
        == C+a=1 C+b=1
        >> C * +a
        << C a=1 b=1
        >> C ack -*
        == C+a=2 C+b=2
        << C a=2
    """)


def test_asking_for_nothing_means_all_only_of_clusters_and_listeners(envoy: Conversation) -> None:
    """An Envoy that reconnects without any EDS cluster left must not be sent all endpoints."""
    envoy.says("""
        == C+a=1 E+a=1
        >> E
        >> C
        << C a=1
    """)


def test_a_stale_nonce_is_no_answer(served: Conversation) -> None:
    served.says("""
        == E+a=2
        << E a=2
        == E+a=3
        >> E ack
        << E a=3
        >> E +b
    """)
    served.session.receive(DeltaDiscoveryRequest(type_url=ENDPOINT, response_nonce="1"), served.now)

    assert served.session.next(served.now) is None


def test_an_unknown_type_is_answered_like_any_other(envoy: Conversation) -> None:
    envoy.says("""
        ==
        >> type.googleapis.com/x.Y +a
        << type.googleapis.com/x.Y -a
    """)


# Refusals


def test_the_named_culprit_alone_is_quarantined(served: Conversation) -> None:
    """As recorded from Envoy 1.40. The rest is acknowledged, and routes do not wait for the culprit."""
    served.says("""
        == C+b=1 C+bad=1 C+worse=1 R+r=2
        << C b=1 bad=1 worse=1
        >> C nack Error adding/updating cluster(s) bad: no host, worse: none, bad: at all
        << C b=1
        >> C ack
        << C worse=1
        >> C nack Error adding/updating cluster(s) worse: none, bad: at all
        << R r=2
        >> R ack
        == C+b=2
        << C b=2
        >> C ack
    """)

    assert served.refused() == {"bad": "1", "worse": "1"}
    assert served.session.settled(served.snapshot.seq)


def test_each_refused_resource_has_its_part_of_envoys_message(served: Conversation) -> None:
    served.play("""
        == L+x=1 L+y=1 L+z=1
        >> L nack Error adding/updating listener(s) z: cannot bind '127.0.0.1:80': in use|x: no|
    """)

    refusals = [(event.name, event.message) for event in served.events() if isinstance(event, Nacked)]
    assert refusals == [("z", "cannot bind '127.0.0.1:80': in use"), ("x", "no")]


def test_what_a_refusal_only_seems_to_name_is_asked_about_alone(served: Conversation) -> None:
    """As recorded from Envoy 1.40, which quotes log formats as they are, with their line breaks."""
    served.says("""
        == L+x=1 L+y=1 L+z=1
        << L x=1 y=1 z=1
        >> L nack Error adding/updating listener(s) x: Incorrect configuration: %NO|y: PE%.|z: no|
        << L y=1
        >> L ack
        << L z=1
        >> L nack Error adding/updating listener(s) z: no|
    """)

    assert served.refused() == {"x": "1", "z": "1"}
    assert served.session.settled(served.snapshot.seq)


def test_words_that_merely_mention_a_name_accuse_nobody(served: Conversation) -> None:
    served.says("""
        == R+s=1
        >> R +s
        << R s=1
        >> R ack
        == R+r=2 R+s=2
        << R r=2 s=2
        >> R nack r: is what s refers to
        << R r=2
    """)


def test_a_quarantined_version_is_not_sent_again_until_it_changes(served: Conversation) -> None:
    served.says("""
        == R+r=bad
        << R r=bad
        >> R nack missing ]
        == R+r=bad L+l=2
        << L l=2
        >> L ack
        == R+r=2
        << R r=2
    """)
    assert served.refused() == {"r": "bad"}

    served.play(">> R ack")
    assert served.refused() == {}


def test_undoing_what_was_refused_ends_the_quarantine_without_sending(served: Conversation) -> None:
    served.says("""
        == R+r=bad
        << R r=bad
        >> R nack missing ]
        == R+r=1
    """)

    assert served.refused() == {}
    last = served.events()[-1]
    assert isinstance(last, Acknowledged)
    assert [name for name, _ in last.versions] == ["r"]


def test_a_secret_that_is_refused_is_undone_by_sending_the_one_before() -> None:
    """Envoy keeps it beside the one in force, and refuses listeners that use it."""
    session = Conversation()
    session.says("""
        == S+s=1
        >> S +s
        << S s=1
        >> S ack
        == S+s=bad
        << S s=bad
        >> S nack odd
        == S+s=1
        << S s=1
        >> S ack
    """)

    assert session.refused() == {}


def test_certificates_whose_refusal_comes_late_are_sent_alone_in_other_bytes() -> None:
    session = Conversation()
    session.play("== C+a=1 S+a=pem S+b=pem-bad")
    session.play(">> S +a +b")
    late = session.nonces["S"]
    session.play(">> C *")
    session.play(".. 31")
    session.nonces["S"] = late
    session.says("""
        >> S nack odd
        << S a=pem'
        >> S ack
        << S b=pem-bad'
        >> S nack odd
    """)

    assert session.refused() == {"b": "pem-bad"}


def test_removing_what_was_refused_ends_the_quarantine(served: Conversation) -> None:
    served.says("""
        == C+bad=1
        << C bad=1
        >> C nack no
        == C-bad
        .. 60
    """)

    assert served.refused() == {}


def test_clusters_of_the_last_good_routes_stay_while_the_new_ones_are_refused(served: Conversation) -> None:
    served.says("""
        == R+r=bad C-a E-a
        << R r=bad
        >> R nack missing ]
        .. 60
        == R+r=2
        << R r=2
        >> R ack
        .. 5
        << C -a
    """)


def test_clusters_of_the_last_good_routes_stay_however_often_new_ones_are_refused(
    served: Conversation,
) -> None:
    """What is in force is older than the first refusal, not than the last. The law has shown it."""
    served.says("""
        == R+r=bad C-a E-a
        << R r=bad
        >> R nack missing ]
        == R+r=worse
        << R r=worse
        >> R nack missing ]
        .. 60
    """)


def test_clusters_of_refused_routes_that_go_stay_until_their_listener_went(served: Conversation) -> None:
    """The last good version of the routes is in force until then. The law has shown it."""
    served.says("""
        == R+r=bad C-a E-a
        << R r=bad
        >> R nack missing ]
        == L-l R-r
        << L -l
        .. 1
        .. 60
        >> L ack
        .. 5
        << C -a
        >> C ack
        << E -a
        << R -r
    """)


@pytest.mark.parametrize("answer", ["R nack missing ]", "E"], ids=["refused", "not answered"])
def test_clusters_of_routes_stay_that_went_and_came_back_otherwise(served: Conversation, answer: str) -> None:
    """Their listener did not follow when they went, so they are as old as that. The law has shown it."""
    served.says(f"""
        == C+b=1 C-a E-a R-r L+l=bad
        << C b=1
        >> C ack
        << L l=bad
        >> L nack no
        == L+l=1 R+r=2
        << R r=2
        >> {answer}
        .. 29
    """)


LEFT_BEFORE_ITS_CHANGE = """
    >> R +s
    << R -s
    >> R ack
    == E+a=2 R+r=2
    << E a=2
    == C-a R+r=3
    == L+l=bad/s R-r R+s=1
    >> E ack
    << L l=bad/s
    << R r=2
    >> L nack no
    >> R ack
    << R s=1
"""
"""The table ``r`` is in force with the former listener. It uses ``a``; without ``a`` it was never sent."""


def test_clusters_stay_of_a_table_that_left_before_its_change_was_sent(served: Conversation) -> None:
    """Its listener, which is to use another table, is refused. The law has shown it."""
    served.says(LEFT_BEFORE_ITS_CHANGE)

    served.says("""
        >> R ack
        .. 60
        == L+l=3/s
        << L l=3/s
        >> R -r
        >> L ack
        .. 5
        << C -a
    """)


def test_clusters_stay_of_a_table_that_came_and_went_once_more(served: Conversation) -> None:
    served.says(LEFT_BEFORE_ITS_CHANGE)

    served.says("""
        == L+l=1 R+r=4
        == L+l=bad/s R-r
        << L l=bad/s
        >> L nack no
        >> R ack
        .. 60
    """)


def test_clusters_stay_of_a_table_that_left_before_its_change_was_sent_and_is_back(
    served: Conversation,
) -> None:
    served.says(LEFT_BEFORE_ITS_CHANGE)

    served.says("""
        >> R ack
        == C+d=1 L+l=1 R+r=4
        << C d=1
        .. 29
        >> C ack
        << R r=4
        >> R ack
        .. 5
        << C -a
    """)


def test_a_retry_does_not_forget_how_old_is_what_is_in_force(served: Conversation) -> None:
    served.play("""
        == R+r=bad C-a E-a
        >> R nack missing ]
        == S+s=1
    """)
    served.session.retry(ROUTE, "r")

    served.says("""
        == S+t=1
        << R r=bad
        >> R nack missing ]
        .. 60
    """)


def test_a_refused_listener_does_not_undo_the_removal_beside_it(served: Conversation) -> None:
    served.says("""
        == L-l L+m=1
        << L m=1 -l
        >> L nack Error adding/updating listener(s) m: no|
        << L -l
        >> L ack
    """)


def test_a_refused_removal_is_not_repeated(served: Conversation) -> None:
    served.says("""
        == L-l
        << L -l
        >> L nack no
    """)


def test_a_late_refusal_of_what_warmed_too_long_still_counts(served: Conversation) -> None:
    served.says("""
        == C+b=1
        << C b=1
        .. 1
        >> S +missing
        << S -missing
        .. 30
        >> C nack no
    """)

    assert served.refused() == {"b": "1"}


LAPSED = """
    == C+b=1 C+c=1 E+b=1 E+c=1
    << C b=1 c=1
    .. 1
    >> E +b +c
    << E b=1 c=1
    >> E ack
    .. 30
"""


def test_a_late_refusal_brings_nothing_old_back(served: Conversation) -> None:
    """Cluster c changed since: to send it again as it was would leave it so for ever."""
    served.says(LAPSED)
    late = served.nonces["C"]
    served.says("""
        == C+c=2
        << C c=2
        << E c=1
    """)
    last, served.nonces["C"] = served.nonces["C"], late
    served.says("""
        >> C nack Error adding/updating cluster(s) b: no
        >> E ack
    """)
    served.nonces["C"] = last
    served.says("""
        >> C ack
    """)

    assert served.refused() == {"b": "1"}
    assert served.session.settled(served.snapshot.seq)


def test_a_late_refusal_of_what_is_gone_counts_no_more(served: Conversation) -> None:
    """Nothing would ever end it. What else the batch said is said again: it may not have been applied."""
    served.says(LAPSED)
    late = served.nonces["C"]
    served.says("""
        == C-b E-b
        .. 5
        << C -b
    """)
    last, served.nonces["C"] = served.nonces["C"], late
    served.says("""
        >> C nack Error adding/updating cluster(s) b: no
    """)
    served.nonces["C"] = last
    served.says("""
        >> C ack
        << C c=1
        << E c=1 -b
    """)

    assert served.refused() == {}


def test_each_of_several_late_refusals_counts(served: Conversation) -> None:
    """Envoy may answer only when all of its clusters are warm, long after the last."""
    served.says(LAPSED)
    first = served.nonces["C"]
    served.says("""
        == C+d=1
        << C d=1
        .. 1
        >> E ack
        .. 30
    """)
    last, served.nonces["C"] = served.nonces["C"], first
    served.says("""
        >> C nack Error adding/updating cluster(s) b: no
        << C c=1
        << E c=1
    """)
    served.nonces["C"] = last
    served.says("""
        >> C nack no
    """)

    assert served.refused() == {"b": "1", "d": "1"}


# Facts and figures


def test_an_ack_says_versions_and_removals(served: Conversation) -> None:
    served.play("""
        == L-l L+m=1
        >> L ack
    """)

    assert served.events() == [
        Acknowledged(
            fleet="eg",
            node="envoy-1",
            stream=0,
            type_url=LISTENER,
            versions=(("m", resource("L", "m", "1").version),),
            gone=("l",),
        )
    ]


def test_it_counts_what_was_sent_and_answered(served: Conversation) -> None:
    served.play("""
        == C+b=1 C+c=1
        >> C nack no
        >> C ack
        >> C nack no
    """)

    counters = served.counters[CLUSTER]
    assert (counters.responses, counters.resources, counters.acks, counters.nacks) == (4, 5, 2, 2)
    assert counters.bytes > 0


def test_one_change_among_thousands_looks_only_itself_up(served: Conversation) -> None:
    """The cost of a change is the change: nothing but the touched name is sent, and nothing else is dirty."""
    served.play("== " + " ".join(f"C+c{i}=1" for i in range(5000)))
    for _ in range(ceil(5000 / MOST[CLUSTER])):
        served.play(">> C ack")

    served.says("""
        == C+c7=2
        << C c7=2
    """)


# Many Envoys of one fleet


def test_a_change_is_encoded_once_for_all_envoys() -> None:
    """A table of thousands of routes goes to hundreds of Envoys: the same bytes, not equal ones."""
    snapshot = Snapshot()
    envoys = [Conversation(snapshot) for _ in range(10)]
    for envoy in envoys:
        envoy.play(COLD_START)
    encoded = snapshot.responses.encoded

    differences = edit(snapshot, "R+r=2")
    for envoy in envoys:
        envoy.session.touch(differences)
    sent = [envoy.session.next(0) for envoy in envoys]

    assert snapshot.responses.encoded == encoded + 1
    assert all(response is sent[0] for response in sent)


def test_envoys_that_start_together_are_sent_the_same_bytes() -> None:
    snapshot = Snapshot()
    edit(snapshot, " ".join(f"C+c{n}=1" for n in range(100)))
    envoys = [Conversation(snapshot) for _ in range(10)]

    sent = [envoy.play(">> C *") for envoy in envoys]

    assert len(set(sent)) == 1
    assert snapshot.responses.encoded == 1


def test_envoys_of_other_versions_are_sent_what_each_needs() -> None:
    """One is slow, one refuses, one has just come back, and one starts anew; each hears what it has to."""
    snapshot = Snapshot()
    slow, refusing, back, new = envoys = [Conversation(snapshot) for _ in range(4)]
    for envoy in (slow, refusing):
        envoy.play("""
            == C+a=1 C+b=1
            >> C *
            >> C ack
        """)

    differences = edit(snapshot, "C+a=2 C-b C+c=1")
    for envoy in (slow, refusing):
        envoy.session.touch(differences)
    refusing.says("""
        >> C
        << C a=2 c=1
        >> C nack no
        << C a=2
        >> C nack no
        << C c=1
        >> C ack
    """)
    back.says("""
        >> C * b=1 c=1
        << C a=2
    """)
    new.says("""
        >> C *
        << C a=2 c=1
    """)
    differences = edit(snapshot, "C+a=3")
    for envoy in (slow, refusing, back, new):
        envoy.session.touch(differences)
    slow.says("""
        >> C
        << C a=3 c=1
    """)
    for envoy in envoys:
        envoy.play("""
            .. 0
            >> C ack
            >> C ack
        """)

    assert [envoy.refused() for envoy in envoys] == [{}, {}, {}, {}]
    a, c = resource("C", "a", "3").version, resource("C", "c", "1").version
    assert {
        (e.session.acknowledged_version(CLUSTER, "a"), e.session.acknowledged_version(CLUSTER, "c"))
        for e in envoys
    } == {(a, c)}
    assert len(snapshot.responses) == 0


@pytest.mark.parametrize("end", [">> L ack", ">> L nack no", "gone", ".. 31"])
def test_what_is_under_way_to_nobody_is_not_kept(end: str) -> None:
    """One Envoy answers, refuses, goes away in the middle of a response, or never answers."""
    envoy = Conversation()
    envoy.play(COLD_START)
    snapshot = envoy.snapshot
    envoy.play("== L+l=2")
    assert len(snapshot.responses) == 1

    if end == "gone":
        del envoy
    else:
        envoy.play(">> E")  # whoever says nothing at all is slow
        envoy.play(end)

    assert len(snapshot.responses) == 0


def test_of_what_comes_by_the_hundred_in_one_edit_nothing_is_lost() -> None:
    """A folder of manifests is one edit. What an Envoy has is kept as what differs, and all of this does."""
    envoy = Conversation()
    envoy.play("""
        == C+a=1
        >> C * a=1
    """)

    envoy.play("== " + " ".join(f"C+c{n}=1" for n in range(300)))
    for _ in range(ceil(300 / MOST[CLUSTER])):
        envoy.play(">> C ack")

    assert [n for n in range(300) if envoy.session.acknowledged_version(CLUSTER, f"c{n}") is None] == []
    assert envoy.counters[CLUSTER].resources == 300


def test_of_an_envoy_that_has_what_it_should_nothing_is_kept() -> None:
    """It may have come before moongate had read any manifest."""
    envoy = Conversation()
    envoy.play("""
        >> C * a=1 b=1
        >> E +a=1 +b=1
        == C+a=1 C+b=1 E+a=1 E+b=1
    """)

    assert envoy.session.entries() == 0


def test_clusters_stay_that_routes_under_way_to_a_new_subscription_use() -> None:
    """Envoy takes them for the new subscription, and refuses what comes after."""
    conversation = Conversation()
    conversation.play(COLD_START)

    conversation.says("""
        == C+d=1 R+r=d
        << C d=1
        >> C ack
        << R r=d
        == C-d R+r=3
        == R+r=bad
        >> R -r
        >> R +r
        >> R ack
        << R r=bad
        >> R nack missing ]: [
        .. 9
        == R+r=2
        << R r=2
        >> R ack
        .. 9
        << C -d
    """)


def nacked(talk: Conversation) -> list[tuple[str, str, str, tuple[tuple[str, str], ...]]]:
    """What was refused, or not sent for lack of clusters: name, content, message and clusters."""
    return [
        (no.name, content(no.version), no.message, no.lacks) for no in talk.events() if isinstance(no, Nacked)
    ]


def test_a_route_whose_cluster_is_refused_is_not_sent_until_it_is_mended(served: Conversation) -> None:
    """Requests to it would fail, and to the former cluster, which stays, they do not."""
    served.play("== C+b=1 E+b=1 R+r=2/b C-a E-a")
    served.events()
    served.says("""
        >> C nack Error adding/updating cluster(s) b: no file
        .. 60
    """)
    assert nacked(served) == [
        ("b", "1", "no file", ()),
        ("r", "2/b", "cluster b: no file", (("b", "no file"),)),
    ]
    assert served.refused() == {"b": "1", "r": "2/b"}
    assert served.session.settled(served.snapshot.seq)

    served.says("""
        == C+b=2
        << C b=2
        >> E +b
        << E b=1
        >> E ack
        >> C ack
        << R r=2/b
        >> R ack
        .. 5
        << C -a
        >> C ack
        << E -a
    """)
    assert served.refused() == {}


def test_a_route_whose_cluster_is_refused_in_a_new_version_alone_is_sent(served: Conversation) -> None:
    """The former one is in force."""
    served.says("""
        == C+a=2 R+r=2/a
        << C a=2
        << E a=1
        >> E ack
        >> C nack Error adding/updating cluster(s) a: no file
        << R r=2/a
        >> R ack
    """)


def test_a_route_is_not_sent_for_clusters_that_another_envoy_refuses() -> None:
    """Two Envoys of a fleet may be of different versions."""
    one = Conversation()
    one.play(COLD_START)
    two = Conversation(one.snapshot, node="envoy-2")
    two.play(COLD_START.replace("== C+a=1 E+a=1 L+l=1 R+r=1", ".. 0"))
    one.session.touch(differences := edit(one.snapshot, "C+b=1 R+r=2/b"))
    two.session.touch(differences)
    one.says("""
        .. 0
        << C b=1
        >> C ack
        << R r=2/b
    """)
    two.says("""
        .. 0
        << C b=1
        >> C nack Error adding/updating cluster(s) b: no file
    """)
    assert (one.refused(), two.refused()) == ({}, {"b": "1", "r": "2/b"})


def test_connections_are_not_sent_to_a_cluster_that_is_refused(served: Conversation) -> None:
    served.says("""
        == C+b=1 L+l=2/:b L+m=1@80
        << C b=1
        >> C nack Error adding/updating cluster(s) b: no file
        << L m=1@80
        >> L ack
    """)
    assert served.refused() == {"b": "1", "l": "2/:b"}


def test_a_scope_whose_cluster_is_refused_is_not_sent_and_others_are() -> None:
    talk = Conversation()
    talk.says("""
        == C+a=1 L+l=1/~t X+t/_=1/a X+t/h=1/a
        >> C *
        << C a=1
        >> C ack
        >> L *
        << L l=1/~t
        >> X +t/*
        >> L ack
        << X t/_=1/a t/h=1/a -t/*
        >> X ack
        == C+b=1 X+t/h=2/b X+t/i=2/a
        << C b=1
        >> C nack Error adding/updating cluster(s) b: no file
        << X t/i=2/a
        >> X ack
    """)


def test_a_returning_table_whose_cluster_is_refused_does_not_keep_its_listener(served: Conversation) -> None:
    """Its listener waits for it, and is asked about it at once when it is clear that it will not come."""
    served.play("""
        == L+l=2/s R+s=1 R-r
        >> L ack
        >> R +s -r
        >> R ack
        .. 5
        >> R ack
    """)
    said = served.play("""
        == C+b=1 L+l=3/r R+r=2/b R-s
        >> C nack Error adding/updating cluster(s) b: no file
    """)
    assert said.splitlines()[-1] == "<< L l=3/r"


def started_anew(served: Conversation) -> Conversation:
    """An Envoy that has nothing, after one like it has refused a new version of a cluster."""
    served.play("""
        == C+a=2 R+r=2/a
        >> E ack
        >> C nack Error adding/updating cluster(s) a: no file
        >> R ack
    """)
    return Conversation(served.snapshot)


def test_an_envoy_that_starts_anew_gets_the_cluster_before_the_refused_one(served: Conversation) -> None:
    """What worked before is not lost, though nobody but moongate has it."""
    again = started_anew(served)
    again.says("""
        >> C *
        << C a=2
        >> C nack Error adding/updating cluster(s) a: no file
        << C a=1
        >> E +a
        << E a=1
        >> E ack
        >> C ack
        >> L *
        << L l=1
        >> R +r
        >> L ack
        << R r=2/a
        >> R ack
    """)
    assert again.refused() == {"a": "2"}
    assert again.session.settled(again.snapshot.seq)
    again.says("""
        == C+a=3
        << C a=3
        << E a=1
        >> E ack
        >> C ack
    """)
    assert again.refused() == {}


def test_an_envoy_that_refuses_the_former_cluster_too_gets_neither_again(served: Conversation) -> None:
    again = started_anew(served)
    again.says("""
        >> C *
        << C a=2
        >> C nack Error adding/updating cluster(s) a: no file
        << C a=1
        >> C nack Error adding/updating cluster(s) a: no, neither
        >> L *
        << L l=1
        >> R +r
        >> L ack
    """)
    assert nacked(again)[-1] == ("r", "2/a", "cluster a: no file", (("a", "no file"),))
    assert again.session.settled(again.snapshot.seq)

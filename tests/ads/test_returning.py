"""Route tables that were removed and are back go before their listeners."""

from __future__ import annotations

from tests.ads.conversation import Conversation


def test_a_route_table_that_comes_back_goes_before_its_listener(served: Conversation) -> None:
    """While an older listener drains with it, Envoy keeps it, and a new listener would serve it as it was."""
    served.says("""
        == L-l R-r
        << L -l
        >> L ack
        .. 5
        << R -r
        >> R ack
        == C+b=1 E+b=1 L+l=2 R+r=2
        << C b=1
        >> E +b
        << E b=1
        >> C ack
        >> E ack
        << R r=2
        >> R ack
        << L l=2
    """)


def test_a_route_table_that_comes_back_in_time_goes_before_its_listener(served: Conversation) -> None:
    served.says("""
        == L-l R-r L+m=1
        << L m=1 -l
        >> L ack
        == L+l=2 L-m R+r=2
        << R r=2
        >> R ack
        << L l=2 -m
    """)


def test_a_listener_does_not_wait_for_a_table_that_is_refused(served: Conversation) -> None:
    served.says("""
        == L-l R-r L+m=1
        << L m=1 -l
        >> L ack
        == L+l=2 L-m R+r=2
        << R r=2
        >> R nack no
        << L l=2 -m
    """)


def test_a_listener_does_not_wait_for_a_table_that_comes_back_as_it_was(served: Conversation) -> None:
    """Nothing is sent for the table, so there is no answer that the listener could wait for."""
    served.says("""
        == L-l R-r L+m=1
        << L m=1 -l
        >> L ack
        == L+l=2 L-m R+r=1
        << L l=2 -m
    """)


def test_a_listener_does_not_wait_for_a_table_that_becomes_as_it_was_while_clusters_warm(
    served: Conversation,
) -> None:
    served.says("""
        == L-l R-r L+m=1
        << L m=1 -l
        >> L ack
        == C+a=2 L+l=2 R+r=2
        << C a=2
        << E a=1
        == R+r=1
        >> C ack
        >> E ack
        << L l=2
    """)


def test_routes_that_return_go_first_and_the_rest_with_their_listener(served: Conversation) -> None:
    """Table r comes back and must be there first; table s changes with the listener, and must wait."""
    served.says("""
        == L-l R-r L+m=1 R+s=1
        << L m=1 -l
        >> R +s
        >> L ack
        << R s=1
        >> R ack
        == L+l=2 R+r=2 L+m=2 R+s=2
        << R r=2
        >> R ack
        << L l=2 m=2
        >> L ack
        << R s=2
    """)


def test_a_table_that_its_old_listener_still_uses_does_not_return(served: Conversation) -> None:
    """The listener was to change to another table, and now does not: its table waits for it like others."""
    served.says("""
        == C+b=1 L+l=to-s R-r
        << C b=1
        == L+l=2 R+r=2
        >> C ack
        << L l=2
        >> L ack
        << R r=2
    """)


def test_a_table_that_came_and_went_while_routes_waited_does_not_return(envoy: Conversation) -> None:
    """A listener in force asks for it, and lacks what the table relies on. The law has shown it."""
    envoy.play("""
        == C+a=1 E+a=1 L+l=1 R+r=1
        >> C *
        >> E +a
        >> E ack
        >> C ack
        >> L *
        == L+l=bad R-r
        >> R +r
        >> L ack
        >> L nack no
        >> R ack
    """)

    envoy.says("""
        == C+b=1 L+l=1 R+r=2
        << C b=1
        == L+l=2 R-r
        == L+l=3 R+r=3
        >> C ack
        << L l=3
        << R r=2
        >> R ack
        >> L ack
        << R r=3
    """)


def test_a_table_that_envoy_has_dropped_does_not_return(served: Conversation) -> None:
    """When it asks for the table again, it is for a listener in force."""
    served.play("""
        == L+l=2 R-r
        >> R -r
        >> L ack
        == L+l=3 R+r=2
        == L+l=bad R-r
        >> R +r
        >> L ack
        >> L nack no
        >> R ack
    """)

    served.says("""
        == C+b=1 L+l=4 R+r=4
        << C b=1
        >> C ack
        << L l=4
        >> L ack
        << R r=4
    """)


def test_a_table_that_went_while_an_envoy_was_away_returns_before_its_listener() -> None:
    """A listener that drains may have kept it there."""
    again = Conversation()
    again.play("""
        == C+a=1 L+l=2
        >> C * a=1
        >> L l=2
        >> R +r=1
    """)

    again.says("""
        == L+l=3 R+r=2
        << R r=2
        >> R ack
        << L l=3
    """)


def test_a_table_whose_listener_was_refused_does_not_return(served: Conversation) -> None:
    """The former listener is in force, with that table."""
    served.says("""
        == L+l=bad R-r
        << L l=bad
        >> L nack no
        == L+l=2 R+r=2
        << L l=2
        >> L ack
        << R r=2
    """)

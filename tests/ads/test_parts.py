"""What is sent in several responses, one after another."""

from __future__ import annotations

from moongate.ads.parts import MOST, MOST_SECRETS
from moongate.xds.wire import CLUSTER, ENDPOINT, SECRET
from tests.ads.conversation import Conversation, resource


def test_an_unnamed_culprit_is_found_by_halves(served: Conversation) -> None:
    served.says("""
        == E+b=1 E+c=1 E+d=1
        >> E +b +c +d
        << E b=1 c=1 d=1
        >> E nack Proto constraint validation failed
        << E b=1
        >> E ack
        << E c=1 d=1
        >> E nack Proto constraint validation failed
        << E c=1
        >> E nack Proto constraint validation failed
        << E d=1
        >> E ack
    """)

    assert served.refused() == {"c": "1"}
    assert served.session.settled(served.snapshot.seq)


def test_a_secret_of_which_each_byte_counts_is_sent_alone() -> None:
    """Envoy takes what it has just refused when it is sent again, so nobody could tell which one it was."""
    session = Conversation()
    session.says("""
        == S+a=1 S+b=bad S+c=1
        >> S +a +b +c
        << S a=1
        >> S ack
        << S b=bad
        >> S nack odd
        << S c=1
        >> S ack
    """)

    assert session.refused() == {"b": "bad"}


def test_certificates_are_sent_together_and_alone_in_other_bytes_if_one_is_refused() -> None:
    """Envoy says nothing of which one it is, has taken some of them, and ignores what has equal bytes."""
    session = Conversation()
    session.says("""
        == S+a=pem S+b=pem-bad S+c=pem S+t=token
        >> S +a +b +c +t
        << S t=token
        >> S ack
        << S a=pem b=pem-bad c=pem
        >> S nack odd
        << S a=pem'
        >> S ack
        << S b=pem-bad'
        >> S nack odd
        << S c=pem'
        >> S ack
    """)
    assert session.refused() == {"b": "pem-bad"}

    session.says("""
        == S+b=pem2 S+c=pem2
        << S b=pem2 c=pem2
        >> S ack
    """)
    assert session.refused() == {}
    assert session.session.acknowledged_version(SECRET, "a") == resource("S", "a", "pem").version


def test_a_response_has_a_bounded_number_of_certificates() -> None:
    session = Conversation()
    names = [f"s{n:03}" for n in range(2 * MOST_SECRETS + 1)]
    session.play(f"== {' '.join(f'S+{name}=pem' for name in names)}")
    sent = [session.play(f">> S {' '.join(f'+{name}' for name in names)}")]
    sent += [session.play(">> S ack") for _ in range(2)]

    assert [said.count("=pem") for said in sent] == [MOST_SECRETS, MOST_SECRETS, 1]


def test_an_endpoint_that_changes_amid_thousands_of_others_is_in_the_next_response(
    served: Conversation,
) -> None:
    """Envoy takes a response in one go: of thousands, it takes some after another, and this one with them."""
    names = [f"e{n:04}" for n in range(1000)]
    served.play("== " + " ".join(f"E+{name}=1" for name in names))
    served.play(">> E " + " ".join(f"+{name}" for name in names))
    while served.session.next(0) is not None or not served.session.settled(served.snapshot.seq):
        served.play(">> E ack")

    first = served.play("== " + " ".join(f"E+{name}=2" for name in names)).splitlines()[-1]
    assert first.count("=2") == MOST[ENDPOINT]
    served.play("== E+e0500=3 E-e0501 E+e0999=4")
    second = served.play(">> E ack").splitlines()[-1].split()

    assert "e0500=3" in second
    assert "e0999=4" in second or "e0999=2" in first
    sent = [first, *second]
    while len(said := served.play(">> E ack").splitlines()) > 1:
        sent += said[1].split()
    assert "e0501=2" not in sent, "it is gone"
    assert "e0500=2" not in sent, "it is sent in its last version alone"
    assert served.session.settled(served.snapshot.seq)


def test_listeners_wait_for_the_last_of_many_clusters(served: Conversation) -> None:
    """What is one edit counts as sent when all of its parts are."""
    served.play("== " + " ".join(f"C+c{n:03}=1" for n in range(MOST[CLUSTER] + 1)) + " L+l=7")

    served.says(f"""
        >> C ack
        << C c{MOST[CLUSTER]:03}=1
        >> C ack
        << L l=7
    """)

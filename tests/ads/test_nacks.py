"""Who is to blame for a refusal, by what Envoy 1.40 says."""

from __future__ import annotations

import pytest

from moongate.ads.nacks import culprits, meets_a_listener, meets_a_socket


def test_envoys_words_are_cut_into_those_about_each_culprit() -> None:
    """A status shows what Envoy says about one resource, without what it says of others."""
    message = "Error adding/updating listener(s) z: cannot bind '127.0.0.1:80': in use\nx: no\n"

    assert culprits(message, ("x", "y", "z")) == {"z": "cannot bind '127.0.0.1:80': in use", "x": "no"}


def test_clusters_are_listed_with_commas() -> None:
    message = "Error adding/updating cluster(s) bad: no host, worse: none, bad: at all"

    assert culprits(message, ("b", "bad", "worse")) == {"bad": "no host", "worse": "none, bad: at all"}


def test_a_name_within_another_is_not_blamed() -> None:
    """Names share endings: default/eg/http is no part of other-default/eg/http."""
    message = "Error adding/updating listener(s) other-l: no\n"

    assert culprits(message, ("l", "other-l")) == {"other-l": "no"}


def test_words_that_merely_mention_a_name_blame_nobody() -> None:
    assert culprits("r: is what s refers to", ("r", "s")) == {}


def test_the_only_resource_of_a_response_is_to_blame_whatever_is_said() -> None:
    assert culprits("missing ]", ("r",)) == {"r": "missing ]"}


def test_the_only_resource_is_not_blamed_twice_with_its_name() -> None:
    assert culprits("Error adding/updating cluster(s) a: no host", ("a",)) == {"a": "no host"}


def test_nobody_is_to_blame_where_nothing_was_sent() -> None:
    """Removals can be refused too."""
    assert culprits("no", ()) == {}


def test_an_address_that_is_open_is_known_by_envoys_words() -> None:
    own = "error adding listener: 'l' has duplicate address '[::1]:80' as existing listener, to check if …"
    taken = "cannot bind '127.0.0.1:80': Address already in use"
    reserved = "cannot bind '127.0.0.1:80': Permission denied"

    quoted = f"Incorrect configuration: %{taken}"

    assert not meets_a_socket(quoted), "a user may write anything"
    assert [meets_a_listener("l", words) for words in (own, taken, reserved)] == [True, False, False]
    assert [meets_a_socket(words) for words in (own, taken, reserved)] == [False, True, False]


@pytest.mark.parametrize(
    "quote",
    [
        "error adding listener: 'l' has duplicate address '[::1]:80' as existing listener",
        "Error adding/updating listener(s) l: error adding listener: 'l' has duplicate address '[::1]:80'",
        "\nl: error adding listener: 'l' has duplicate address '[::1]:80'",
    ],
)
def test_what_a_user_wrote_is_not_taken_for_envoys_words(quote: str) -> None:
    """Names of routes and values of headers are quoted. A listener is closed because of Envoy's own words."""
    words = f"Error adding/updating listener(s) l: Only unique values for domains are permitted: {quote}"

    assert not meets_a_listener("l", words)
    assert not meets_a_listener("l", words.partition(": ")[2])


def test_the_words_about_one_listener_are_not_those_about_another() -> None:
    words = "error adding listener: 'l' has duplicate address '[::1]:80' as existing listener"

    assert meets_a_listener("l", f"Error adding/updating listener(s) l: {words}")
    assert not meets_a_listener("m", words)

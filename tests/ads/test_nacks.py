"""Who is to blame for a refusal, by what Envoy 1.40 says."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from moongate.ads.nacks import Blame, blame, meets_a_listener, meets_a_socket

LISTENERS = "Error adding/updating listener(s) "
CLUSTERS = "Error adding/updating cluster(s) "
HTPASSWD = "basic auth: unsupported htpasswd format: please use {SHA}"


class Refusal(NamedTuple):
    """What Envoy said of a response, as recorded; each response had ``a``, ``b`` and ``c``.

    Args:
        message: its message, in which a user may have written ``b``.
        certain: whom it certainly refuses.
        likely: whom it seems to refuse as well.
    """

    message: str
    certain: tuple[str, ...] = ()
    likely: tuple[str, ...] = ()


RECORDED = {
    "a scope with the key of another": Refusal(
        "Error adding/updating scoped route(s): scope key conflict found, first scope is 'a', "
        "second scope is 'b'",
        ("b",),
    ),
    "a scope with the key of one that was not in the response": Refusal(
        "Error adding/updating scoped route(s): scope key conflict found, first scope is 'x', "
        "second scope is 'b'",
        ("b",),
    ),
    "a scope with a faulty table": Refusal("missing ]: ["),
    "several clusters": Refusal(
        f"{CLUSTERS}a: ring hash: minimum_ring_size (9) > maximum_ring_size (8), "
        "c: LOGICAL_DNS clusters must have a single host",
        ("a",),
        ("c",),
    ),
    "a host's address": Refusal(
        f"{CLUSTERS}a: malformed IP address: no, b: ip. Consider setting resolver_name or setting cluster "
        "type to 'STRICT_DNS' or 'LOGICAL_DNS'",
        ("a",),
        ("b",),
    ),
    "a cluster that breaks a constraint": Refusal(
        'goo.gle/debugproto   \nname: "a"\nalt_stat_name: "x, b: y"\n: Proto constraint validation failed '
        "(ClusterValidationError.CommonLbConfig: embedded message failed validation)"
    ),
    "several listeners": Refusal(f"{LISTENERS}a: {HTPASSWD}\nc: {HTPASSWD}\n", ("a",), ("c",)),
    "a filter's name": Refusal(
        f"{LISTENERS}a: Didn't find a registered implementation for 'm: \nb: x' with type URL: ''\n"
        f"c: {HTPASSWD}\n",
        ("a",),
        ("b", "c"),
    ),
    "a log format": Refusal(
        f"{LISTENERS}a: Incorrect configuration: %NO\nb: PE%. Couldn't find valid command at position 0\n",
        ("a",),
        ("b",),
    ),
    "filter chains": Refusal(
        f"{LISTENERS}a: error adding listener '127.0.0.1:12894': filter chain '' has the same matching rules "
        "defined as ''. duplicate matcher is: {}\n",
        ("a",),
    ),
    "a listener without chains": Refusal(
        f"{LISTENERS}c: error adding listener '127.0.0.1:12903': no filter chains specified\n", ("c",)
    ),
    "addresses that are in use": Refusal(
        f"{LISTENERS}c: cannot bind '127.0.0.1:80': Address already in use\n"
        "b: error adding listener: 'b' has duplicate address '127.0.0.1:81' as existing listener, to check "
        "if the listener has duplicated addresses with other listeners or 'enable_reuse_port' is set to "
        f"'false' for the listener\na: {HTPASSWD}\n",
        ("c", "b", "a"),
    ),
    "a pattern": Refusal("missing ]: [\nb: ("),
    "a virtual host": Refusal(
        "Only unique values for domains are permitted. Duplicate entry of domain a.test in route b"
    ),
    "a wildcard": Refusal("Only a single wildcard domain is permitted in route b"),
    "a route that breaks a constraint": Refusal(
        'goo.gle/debugonly  \nname: "a"\nvirtual_hosts {\n  routes {\n    name: "b: \\nb: x"\n  }\n}\n'
        ": Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[0]: embedded "
        "message failed validation | caused by DirectResponseActionValidationError.Status: value must be "
        "inside range [200, 600))"
    ),
    "a header of a route": Refusal(
        "Incorrect configuration: %NO, b: pe%. Couldn't find valid command at position 0"
    ),
    "a filter of a route": Refusal(HTPASSWD),
    "a certificate": Refusal("Failed to load certificate chain from <inline>"),
}


@pytest.mark.parametrize("refusal", RECORDED.values(), ids=RECORDED)
def test_only_what_envoy_certainly_names_is_blamed(refusal: Refusal) -> None:
    certain, likely = blame(refusal.message, ("a", "b", "c"))

    assert (tuple(certain), tuple(likely)) == (refusal.certain, refusal.likely)


@pytest.mark.parametrize("refusal", RECORDED.values(), ids=RECORDED)
def test_the_only_resource_of_a_response_is_to_blame_whatever_is_said(refusal: Refusal) -> None:
    name = refusal.certain[0] if refusal.certain else "a"

    certain, likely = blame(refusal.message, (name,))

    assert certain.keys() == {name}
    assert likely == {}


def test_each_resource_has_envoys_words_about_it_alone() -> None:
    message = f"{LISTENERS}z: cannot bind '127.0.0.1:80': in use\nx: no\ny: neither\n"

    assert blame(message, ("x", "y", "z")) == Blame(
        {"z": "cannot bind '127.0.0.1:80': in use", "x": "no"}, {"y": "neither"}
    )


def test_the_words_about_a_resource_that_is_named_again_in_a_quote_are_those_at_the_beginning() -> None:
    assert blame(f"{CLUSTERS}bad: no host, worse: none, bad: at all", ("b", "bad", "worse")) == Blame(
        {"bad": "no host"}, {"worse": "none"}
    )


def test_a_name_within_another_is_not_blamed() -> None:
    """Names share endings: default/eg/http is no part of other-default/eg/http."""
    assert blame(f"{LISTENERS}other-l: no\n", ("l", "other-l")) == Blame({"other-l": "no"}, {})


def test_nobody_is_blamed_where_envoy_names_a_resource_that_was_not_sent() -> None:
    """It may refuse a removal."""
    assert blame(f"{LISTENERS}x: no\na: no\n", ("a", "b")) == Blame({}, {})


def test_a_message_that_is_cut_off_blames_whom_it_still_names() -> None:
    assert blame(f"{CLUSTERS}a: no host, b", ("a", "b")) == Blame({"a": "no host, b"}, {})


def test_nobody_is_to_blame_where_nothing_was_sent() -> None:
    """Removals can be refused too."""
    assert blame("no", ()) == Blame({}, {})


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

"""A run complains of what ``validate`` complains of, and in the same words: for faults two at a time.

One fault may hide another, or be the reason of another: the campaign tries each fault alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.campaign import cold
from tests.campaign.fault import Fault, NotApplicable, params, swap
from tests.campaign.healthy import SHOP
from tests.campaign.tables import ALL, OF_CONTENT

FAULTS: Final = tuple(fault for table in OF_CONTENT.values() for fault in table)

values = cache(cold.values)


@pytest.mark.parametrize("fault", params(ALL))
def test_a_row_says_all_that_its_user_must_read(fault: Fault) -> None:
    """What is wrong, what would be right and what requests get: or why a message cannot say that."""
    for reading in fault.reads:
        for part in (reading.value, reading.right, reading.meanwhile):
            assert part.why if isinstance(part, NotApplicable) else part


def check(files: Mapping[str, str | bytes | None]) -> set[str]:
    """What is said of the healthy folder with other files; the same by both."""
    with tempfile.TemporaryDirectory() as home:
        cold.write(Path(home), files, values())
        lines = cold.said_by_validate(Path(home))

        assert cold.said_by_run(Path(home)) == lines

        return {line.replace(f"{home}/", "") for line in lines}


def test_nothing_is_said_of_a_healthy_folder() -> None:
    assert check({}) == set()


@pytest.mark.parametrize(
    ("far", "said"),
    [
        (
            "metadata: {name: fair, namespace: away}",
            "There is no Backend away/far. Did you mean 'fair'?",
        ),
        ("meta: {name: far, namespace: away}", "There is no Backend away/far."),
        (
            "metadata: {name: far, namespace: away, label: {}}",
            "Backend away/far is not in force: it is written",
        ),
    ],
)
def test_what_a_route_lacks_is_said_while_its_gateway_cannot_be_read(far: str, said: str) -> None:
    """No condition speaks of such a route, and whoever mends the Gateway wants to mend this, too."""
    files = swap("gateway.yaml", ("metadata", "meta"))
    files |= swap("away.yaml", ("metadata: {name: far, namespace: away}", far))
    files |= swap("private.yaml", ("users: {name: users}", "users: {name: user}"))

    lines = check(files)

    at = "guest.yaml:9:59: HTTPRoute default/guest: spec.rules[0].backendRefs[0].name: "
    assert any(line.startswith(at + said) for line in lines)
    assert any("There is no Secret default/user. Did you mean 'users'?" in line for line in lines)


@pytest.mark.parametrize("address", ["", "clusterIP: 10.0.0.1, ", "clusterIP: None, "])
def test_a_service_without_endpoints_says_what_to_write(address: str) -> None:
    """On a laptop no cluster makes its EndpointSlices, and nothing is at its address."""
    service = (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{address}ports: [{{port: 80}}]}}\n"
    )
    shop = swap(
        "shop.yaml",
        ("group: gateway.envoyproxy.io\n", "port: 80\n"),
        ("Backend", "Service"),
        ("name: two", "name: s"),
    )

    [line] = check({"service.yaml": service} | shop)

    assert "add an EndpointSlice with the label kubernetes.io/service-name: s, or use a Backend" in line
    assert "Requests are answered with 503." in line


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("a slash/in it", "users.yaml:5:18: Secret default/users: stringData[a slash/in it]: The key is "),
        ("..hidden", "users.yaml:5:13: Secret default/users: stringData[..hidden]: The key is "),
    ],
)
def test_a_key_of_a_secret_that_an_api_server_refuses_has_its_place(key: str, said: str) -> None:
    lines = check(swap("users.yaml", (".htpasswd:", f"{key}:")))

    assert any(line.startswith(said) for line in lines)


def test_two_routes_for_the_same_requests_are_said_of_both() -> None:
    lines = check({"twin.yaml": SHOP.replace("name: shop\n", "name: twin\n")})

    assert sorted(line.partition(":")[0] for line in lines) == ["shop.yaml", "twin.yaml"]
    assert all("Some rules match the same requests" in line for line in lines)
    assert all("They go to the oldest of these routes" in line for line in lines)


def test_listeners_that_share_a_certificate_are_said_to() -> None:
    """It works as it is written, and browsers speak HTTP/1.1 there: a run warns as ``validate`` does."""
    again = "tls: {certificateRefs: [{name: certificate}]}\n"
    other = f"  - {{name: wide, port: @TLS_PORT@, protocol: HTTPS, hostname: '*.test', {again.strip()}}}\n"

    lines = check(swap("gateway.yaml", (again, again + other)))

    assert len(lines) == 2


def named(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.slow
@given(st.sampled_from(FAULTS), st.sampled_from(FAULTS))
# The condition of a route reports what a filter refers to.
@example(named("a tab that indents is shown as one"), named("a value of a ConfigMap is text"))
@settings(max_examples=40)
def test_of_two_faults_a_run_says_what_validate_says(one: Fault, other: Fault) -> None:
    """With the same places, and in the same words."""
    assume(not one.files.keys() & other.files.keys())

    check({**one.files, **other.files})

"""What is set for a resource, from files and from a running moongate."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from moongate.run import Laptop
from tests.cli.conftest import Command

MANIFESTS = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec:
  gatewayClassName: moongate
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
  - {name: other, port: 8081, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: eg, sectionName: http}]
  rules:
  - name: pay
    timeouts: {request: 5s}
    backendRefs: [{name: up, port: 80}]
  - backendRefs: [{name: up, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: up}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: all}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]
  retry: {numRetries: 3, perRetry: {timeout: 1s}, retryOn: {httpStatusCodes: [500, 503]}}
  timeout: {http: {requestTimeout: 9s, connectionIdleTimeout: 60s}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: own}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  mergeType: StrategicMerge
  retry: {numRetries: 7}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: clients}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg, sectionName: other}]
  connection: {bufferLimit: 1, connectionLimit: {value: 5}}
  timeout: {http: {idleTimeout: 10s}}
"""

ROUTE = """\
HTTPRoute default/shop: rule 0 (pay) on default/eg/http
FIELD                                VALUE        FROM
retry.numRetries                     7            BackendTrafficPolicy default/own
retry.retryOn.httpStatusCodes        [500, 503]   BackendTrafficPolicy default/all
retry.perRetry.timeout               1s           BackendTrafficPolicy default/all
timeout.http.connectionIdleTimeout   60s          BackendTrafficPolicy default/all
timeout.http.requestTimeout          5s           HTTPRoute default/shop

HTTPRoute default/shop: rule 1 on default/eg/http
FIELD                                VALUE        FROM
retry.numRetries                     7            BackendTrafficPolicy default/own
retry.retryOn.httpStatusCodes        [500, 503]   BackendTrafficPolicy default/all
retry.perRetry.timeout               1s           BackendTrafficPolicy default/all
timeout.http.connectionIdleTimeout   60s          BackendTrafficPolicy default/all
timeout.http.requestTimeout          9s           BackendTrafficPolicy default/all
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(MANIFESTS)
    return tmp_path


def test_each_leaf_has_the_owner_that_set_it(command: Command, folder: Path) -> None:
    """A merged policy is of two owners, and what a rule says itself is the route's."""
    ended = command("effective", "HTTPRoute/default/shop", folder)

    assert (ended.out, ended.code) == (ROUTE, 0)


def test_one_rule_can_be_asked_for(command: Command, folder: Path) -> None:
    ended = command("effective", "httproute/default/shop/pay", folder, "-o", "json")

    answer = json.loads(ended.out)
    assert [(scope["rule"], scope["name"]) for scope in answer["scopes"]] == [(0, "pay")]
    last = answer["scopes"][0]["settings"][-1]
    assert last == {
        "kind": "BackendTrafficPolicy",
        "field": "timeout.http.requestTimeout",
        "value": "5s",
        "owner": "HTTPRoute default/shop",
        "fault": "",
    }


def test_a_gateway_shows_what_holds_on_each_listener(command: Command, folder: Path) -> None:
    ended = command("effective", "Gateway/default/eg", folder, "-o", "json")

    fields = {
        scope["listener"]: [s["field"] for s in scope["settings"] if s["kind"] == "ClientTrafficPolicy"]
        for scope in json.loads(ended.out)["scopes"]
    }
    assert fields == {
        "default/eg/http": [],
        "default/eg/other": [
            "timeout.http.idleTimeout",
            "connection.connectionLimit.value",
            "connection.bufferLimit",
        ],
    }


def test_what_has_a_fault_says_so(command: Command, folder: Path) -> None:
    policy = "spec:\n  retry: {perRetry: {backOff: {baseInterval: 0s}}}\n"
    target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: pay}"
    head = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: bad}\n"
    (folder / "bad.yaml").write_text(head + policy + f"  targetRefs: [{target}]\n")

    ended = command("effective", "HTTPRoute/default/shop/pay", folder)

    assert "retry.perRetry.backOff.baseInterval   0s      BackendTrafficPolicy default/bad   " in ended.out
    assert ended.out.endswith(
        "All requests are refused, because BackendTrafficPolicy default/bad has a fault.\n"
    )


def test_rules_with_equal_settings_are_shown_apart_if_one_is_refused(command: Command, folder: Path) -> None:
    """A policy whose text has a fault sets nothing, but its requests are refused."""
    head = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: guard}\n"
    target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, sectionName: pay}"
    (folder / "guard.yaml").write_text(f"{head}spec:\n  targetRefs: [{target}]\n  corz: {{}}\n")
    manifests = (folder / "all.yaml").read_text()
    (folder / "all.yaml").write_text(manifests.replace("    timeouts: {request: 5s}\n", ""))

    ended = command("effective", "HTTPRoute/default/shop", folder)

    first, second = ended.out.split("\n\n")
    refusal = "All requests are refused, because SecurityPolicy default/guard has a fault."
    assert first.startswith("HTTPRoute default/shop: rule 0 (pay) on default/eg/http\n")
    assert first.endswith(refusal)
    assert second.startswith("HTTPRoute default/shop: rule 1 on default/eg/http\n")
    assert refusal not in second


def test_a_route_that_no_listener_serves_says_so(command: Command, folder: Path) -> None:
    manifests = (folder / "all.yaml").read_text()
    (folder / "all.yaml").write_text(manifests.replace("sectionName: http}", "sectionName: none}"))

    ended = command("effective", "HTTPRoute/default/shop", folder)

    assert ended.out == "HTTPRoute default/shop: no listener serves it, so no policy applies to it.\n"
    assert ended.code == 0


@pytest.mark.parametrize(
    ("resource", "code", "words"),
    [
        ("HTTPRoute/default/none", 1, "There is no HTTPRoute default/none."),
        ("HTTPRoute/default/shop/none", 1, "has no listener or rule named 'none'"),
        ("HTTPRoute/shop", 2, "must be KIND/NAMESPACE/NAME"),
        ("Service/default/up", 2, "No policy applies to kind 'Service'"),
    ],
)
def test_what_cannot_be_shown_is_explained(
    command: Command, folder: Path, resource: str, code: int, words: str
) -> None:
    ended = command("effective", resource, folder)

    assert ended.code == code
    assert words in ended.err


def test_a_rule_that_no_policy_is_for_says_so(command: Command, tmp_path: Path) -> None:
    """It speaks of policies: the spec of a Gateway may set something too, such as ``tls.frontend``."""
    (tmp_path / "all.yaml").write_text("---".join(MANIFESTS.split("---")[:3]))

    ended = command("effective", "Gateway/default/eg/http", tmp_path)

    assert (ended.out, ended.code) == (
        "Gateway default/eg: default/eg/http\nNo policy sets anything here.\n",
        0,
    )


async def test_a_running_moongate_answers_the_same(command: Command, tmp_path: Path) -> None:
    async with Laptop(run_dir=tmp_path, envoy=Path("/bin/true")) as running:
        running.take_text("all", MANIFESTS)
        ended = await asyncio.to_thread(command, "effective", "HTTPRoute/default/shop", "--run-dir", tmp_path)
        gone = await asyncio.to_thread(command, "effective", "HTTPRoute/default/x", "--run-dir", tmp_path)

    assert (ended.out[-len(ROUTE) :], ended.code) == (ROUTE, 0)  # the log of the gateway stands before
    assert gone.code == 1

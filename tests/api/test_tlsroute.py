"""Which TLSRoutes, TCPRoutes and UDPRoutes each version admits."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.admission import admit
from moongate.api.base import GATEWAY_GROUP
from moongate.api.tlsroute import TLSRoute
from moongate.kinds import KINDS

RULE = {"backendRefs": [{"name": "shop", "port": 80}]}


def faults(kind: str, version: str, **spec: Any) -> str:
    """What is wrong with a route, in words; "" if nothing is."""
    document = {
        "apiVersion": f"{GATEWAY_GROUP}/{version}",
        "kind": kind,
        "metadata": {"name": "shop"},
        "spec": {"parentRefs": [{"name": "eg"}], "rules": [RULE], **spec},
    }
    admission = admit(document, KINDS, namespace="default")
    assert admission.resource is None or type(admission.resource) is KINDS[GATEWAY_GROUP, kind]
    return " ".join(f"{problem.path}: {problem.message}" for problem in admission.problems)


@pytest.mark.parametrize("version", ["v1", "v1alpha3"])
def test_a_tls_route_names_its_hostnames(version: str) -> None:
    assert "spec.hostnames" in faults("TLSRoute", version)
    assert faults("TLSRoute", version, hostnames=["a.test", "*.b.test"]) == ""
    assert "IP address" in faults("TLSRoute", version, hostnames=["10.0.0.1"])


def test_an_older_tls_route_takes_all_hostnames_of_its_listener() -> None:
    assert faults("TLSRoute", "v1alpha2") == ""


@pytest.mark.parametrize("kind", ["TLSRoute", "TCPRoute", "UDPRoute"])
def test_only_older_versions_have_many_rules(kind: str) -> None:
    hostnames = {"hostnames": ["a.test"]} if kind == TLSRoute.KIND else {}

    assert "spec.rules" in faults(kind, "v1", rules=[RULE, RULE], **hostnames)
    assert faults(kind, "v1alpha2", rules=[RULE, RULE], **hostnames) == ""
    assert "same name" in faults(
        kind, "v1alpha2", rules=[{"name": "a", **RULE}, {"name": "a", **RULE}], **hostnames
    )


@pytest.mark.parametrize("kind", ["TLSRoute", "TCPRoute", "UDPRoute"])
def test_a_rule_has_a_backend(kind: str) -> None:
    hostnames = {"hostnames": ["a.test"]} if kind == TLSRoute.KIND else {}

    assert "backendRefs" in faults(kind, "v1", rules=[{"backendRefs": []}], **hostnames)
    assert "port" in faults(kind, "v1", rules=[{"backendRefs": [{"name": "shop"}]}], **hostnames)


def test_an_object_that_an_old_version_admitted_is_translated_all_the_same() -> None:
    document = {
        "apiVersion": f"{GATEWAY_GROUP}/v1",
        "kind": "TLSRoute",
        "metadata": {"name": "shop"},
        "spec": {"rules": [RULE, RULE]},
    }

    admission = admit(document, KINDS, namespace="default", tolerant=True)

    assert isinstance(admission.resource, TLSRoute)
    assert admission.resource.hostnames == ()
    assert admission.problems

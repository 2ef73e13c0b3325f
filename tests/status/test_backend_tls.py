"""What a user reads of a BackendTLSPolicy: under the parents of the routes that need it."""

from __future__ import annotations

import pytest

from moongate.api.shared import ParentReference
from moongate.status.backend_tls import backend_tls_status
from moongate.status.policies import MAX_ANCESTORS, PolicyStatus
from tests.attach.test_backend_tls import backend, config_map, policy_ref, tls_policy
from tests.core import ON_HOST, Core, gateway, http
from tests.routes import http_route, rule, service

GATEWAY = gateway(http("web"), http("other", port=81))
BASE = (GATEWAY, http_route(), service(), config_map())


def status(core: Core, name: str = "policy") -> PolicyStatus:
    status = backend_tls_status(core.db, policy_ref(name))
    assert status is not None
    return status


def conditions(core: Core, name: str = "policy") -> dict[str, tuple[str, str]]:
    """Those of the only ancestor, as (status, reason) by type."""
    [ancestor] = status(core, name).ancestors
    return {each.type: (each.status, each.reason) for each in ancestor.conditions}


def parents(core: Core, name: str = "policy") -> list[str]:
    """The ancestors as NAME or NAME/SECTION."""
    refs: list[str] = []
    for ancestor in status(core, name).ancestors:
        at = ancestor.ancestor_ref
        assert isinstance(at, ParentReference)
        assert at.namespace == "default"
        refs.append("/".join(filter(None, (at.name, at.section_name))))
    return refs


def test_a_policy_is_accepted_under_the_parents_of_routes_that_need_it() -> None:
    core = Core(*BASE, tls_policy(), http_route(name="two", parent="{name: eg, sectionName: web}"))

    assert parents(core) == ["eg", "eg/web"]
    for ancestor in status(core).ancestors:
        assert {c.type: (c.status, c.observed_generation) for c in ancestor.conditions} == {
            "Accepted": ("True", 2),
            "ResolvedRefs": ("True", 2),
        }


@pytest.mark.parametrize(
    "manifests",
    [
        (GATEWAY, service(), config_map()),
        (GATEWAY, http_route(rule("", "{name: shop, port: 80, weight: 0}")), service(), config_map()),
        (GATEWAY, http_route(parent="{name: eg, sectionName: gone}"), service(), config_map()),
        (GATEWAY, http_route(parent="{name: elsewhere}"), service(), config_map()),
        (GATEWAY, http_route(rule("", "{name: shop, port: 9}")), service(), config_map()),
        (GATEWAY, http_route(rule("", "{name: shop, port: 80, namespace: other}")), service(), config_map()),
    ],
    ids=["no-route", "no-weight", "not-attached", "not-ours", "no-port", "another-namespace"],
)
def test_a_policy_that_nothing_of_ours_needs_has_no_status(manifests: tuple[str, ...]) -> None:
    core = Core(*manifests, tls_policy())

    assert backend_tls_status(core.db, policy_ref()) is None


def test_a_policy_for_a_port_is_needed_by_routes_to_that_port() -> None:
    core = Core(*BASE, tls_policy(target="Service/shop/http"), tls_policy("grpc", target="Service/shop/grpc"))

    assert parents(core) == ["eg"]
    assert backend_tls_status(core.db, policy_ref("grpc")) is None


def test_a_mirror_needs_the_policy_too() -> None:
    mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shop, port: 80}}}]"
    route = http_route(rule(mirror, "{name: another, port: 80}"))
    core = Core(GATEWAY, route, service(), service("another"), config_map(), tls_policy())

    assert parents(core) == ["eg"]


def test_what_a_filter_asks_for_permission_needs_the_policy_too() -> None:
    auth = "{protocol: HTTP, backendRef: {name: shop, port: 80}, http: {path: /}}"
    route = http_route(
        rule(f"filters: [{{type: ExternalAuth, externalAuth: {auth}}}]", "{name: another, port: 80}")
    )
    core = Core(GATEWAY, route, service(), service("another"), config_map(), tls_policy())

    assert parents(core) == ["eg"]


def test_authorities_that_cannot_be_used_are_said_to_all() -> None:
    core = Core(GATEWAY, http_route(), service(), tls_policy())

    assert conditions(core) == {
        "Accepted": ("False", "NoValidCACertificate"),
        "ResolvedRefs": ("False", "InvalidCACertificateRef"),
    }
    message = status(core).ancestors[0].conditions[0].message
    assert message.startswith("spec.validation.caCertificateRefs[0]: ConfigMap default/ours does not exist.")
    assert "no request is sent to its targets" in message


def test_a_reference_of_another_kind_has_its_own_reason() -> None:
    checks = "{caCertificateRefs: [{group: '', kind: Pod, name: x}], hostname: a.io}"
    core = Core(*BASE, tls_policy(validation=checks))

    assert conditions(core) == {
        "Accepted": ("False", "NoValidCACertificate"),
        "ResolvedRefs": ("False", "InvalidKind"),
    }


def test_the_younger_of_two_for_the_same_target_conflicts_until_the_older_goes() -> None:
    core = Core(
        *BASE,
        tls_policy("old", created="2025-01-01T00:00:00Z"),
        tls_policy("new", created="2026-01-01T00:00:00Z"),
        tls_policy("port", target="Service/shop/http", created="2026-01-01T00:00:00Z"),
    )
    assert conditions(core, "port") == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
    }
    assert backend_tls_status(core.db, policy_ref("old")) is None

    core.delete("BackendTLSPolicy", "default", "port")
    assert conditions(core, "old")["Accepted"] == ("True", "Accepted")
    assert conditions(core, "new") == {"Accepted": ("False", "Conflicted")}
    [refused] = status(core, "new").ancestors[0].conditions
    assert "BackendTLSPolicy default/old applies to" in refused.message

    core.delete("BackendTLSPolicy", "default", "old")
    assert conditions(core, "new")["Accepted"] == ("True", "Accepted")


def test_a_policy_that_holds_one_target_and_not_another_says_both() -> None:
    both = tls_policy("both", created="2026-01-01T00:00:00Z").replace(
        "  targetRefs:\n", "  targetRefs:\n  - {group: '', kind: Service, name: own}\n"
    )
    own = http_route(rule("", "{name: own, port: 80}"), name="own", parent="{name: eg, sectionName: other}")
    core = Core(*BASE, own, service("own"), both, tls_policy("old"))

    by_parent = {
        ancestor.ancestor_ref.section_name: {c.type: c.reason for c in ancestor.conditions}
        for ancestor in status(core, "both").ancestors
    }

    assert by_parent == {
        None: {"Accepted": "Conflicted"},
        "other": {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"},
    }


def test_a_status_lists_sixteen_ancestors_at_most() -> None:
    gateways = [gateway(http("web"), name=f"g{n:02}") for n in range(MAX_ANCESTORS + 2)]
    routes = [http_route(name=f"r{n:02}", parent=f"{{name: g{n:02}}}") for n in range(MAX_ANCESTORS + 2)]
    core = Core(*gateways, *routes, service(), config_map(), tls_policy())

    listed = status(core).ancestors

    assert len(listed) == MAX_ANCESTORS
    assert [c.type for c in listed[-1].conditions] == ["Accepted", "ResolvedRefs", "Aggregated"]


def test_a_backend_of_our_own_is_known_by_the_number_of_its_port() -> None:
    route = http_route(rule("", "{group: gateway.envoyproxy.io, kind: Backend, name: app, port: 443}"))
    manifests = (GATEWAY, route, backend("{sni: a.io}"), config_map(), tls_policy(target="Backend/app/443"))

    assert parents(Core(*manifests, config=ON_HOST)) == ["eg"]
    assert backend_tls_status(Core(*manifests).db, policy_ref()) is None  # without Backends switched on


def test_a_route_that_comes_costs_its_shard() -> None:
    """However many routes send to the backend."""
    core = Core(*BASE, tls_policy(), *(http_route(name=f"r{n}") for n in range(30)))
    assert parents(core) == ["eg"]

    core.apply(http_route(name="another"))
    with core.ran() as ran:
        assert parents(core) == ["eg"]

    assert ran["ancestors_in"] == 1

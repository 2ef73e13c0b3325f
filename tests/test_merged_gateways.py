"""Several Gateways that share their Envoys (``mergeGateways``): none changes what belongs to another."""

from __future__ import annotations

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from moongate.api.base import Condition, FleetId, ListenerId, Ref
from moongate.api.gateway import Gateway, GatewayClass
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.http_listeners import http3_port
from moongate.status.policies import policy_status
from moongate.xds.listeners import listener
from moongate.xds.routes import route_configuration
from tests.core import Core, extension, gateway, gateway_class, http, https, policy, tls_secret
from tests.listeners import manager

ONE, TWO = (Ref.of(Gateway, "default", name) for name in ("one", "two"))
FLEET = FleetId(Ref.of(GatewayClass, "", "eg"))
PROXY = extension("EnvoyProxy", "merging", "{mergeGateways: true}")
LIMITS = "connection: {bufferLimit: 1Mi, connectionLimit: {value: 5}}\npath: {disableMergeSlashes: true}"


def core(*manifests: str) -> Core:
    merged = Core(*manifests)
    merged.apply(gateway_class("merging"), PROXY)
    return merged


def route(gateway_name: str, *hostnames: str, rules: str = "[{}]") -> str:
    return f"""
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {{name: of-{gateway_name}, namespace: default}}
    spec:
      parentRefs: [{{name: {gateway_name}}}]
      hostnames: [{", ".join(f'"{h}"' for h in hostnames)}]
      rules: {rules}
    """


def sent(of: Core, name: str) -> Listener:
    resource = listener(of.db, FLEET, name)
    assert resource is not None
    return Listener.FromString(resource.body)


def accepted(of: Core, name: str) -> list[Condition]:
    status = policy_status(of.db, Ref.of(ClientTrafficPolicy, "default", name))
    assert status is not None
    return [c for ancestor in status.ancestors for c in ancestor.conditions if c.type == "Accepted"]


def test_a_hostname_belongs_to_the_narrowest_listener_of_all_gateways_on_a_port() -> None:
    """Two virtual hosts for one hostname would be refused by Envoy, and with them the table of all."""
    merged = core(
        gateway(http("web", "*.io"), name="one"),
        gateway(http("web", "a.io"), name="two"),
        route("one", "a.io", "b.io"),
        route("two"),
    )
    table = route_configuration(merged.db, FLEET, "default/one/web")
    assert table is not None

    hosts = RouteConfiguration.FromString(table.body).virtual_hosts

    assert {(host.name, *host.domains) for host in hosts} == {
        ("default/one/web/b_io", "b.io"),
        ("default/two/web/a_io", "a.io"),
    }


def test_a_redirect_follows_the_listener_of_its_own_gateway() -> None:
    """Whoever else has the same Envoys, a redirect must lead to where its own clients can connect."""
    path = "{type: ReplaceFullPath, replaceFullPath: /x}"
    rules = f"[{{filters: [{{type: RequestRedirect, requestRedirect: {{path: {path}}}}}]}}]"
    merged = core(
        gateway(http("web", "a.io"), name="one"),
        gateway(https("web", "cert", port=8443), name="two"),
        tls_secret("cert", "b.io"),
        route("one", "a.io", rules=rules),
        route("two", "b.io", rules=rules),
    )

    redirects: dict[str, tuple[str, int]] = {}
    for name in ("default/one/web", "default/two/web"):
        table = route_configuration(merged.db, FLEET, name)
        assert table is not None
        for host in RouteConfiguration.FromString(table.body).virtual_hosts:
            for each in host.routes:
                redirects[host.domains[0]] = (each.redirect.host_redirect, each.redirect.port_redirect)

    assert redirects == {"a.io": ("a.io", 0), "b.io": ("", 8443)}


def test_a_policy_of_one_gateway_brings_http3_to_none_of_another_that_shares_its_port() -> None:
    """Who has not asked for it may count on what TCP has, such as the proxy protocol."""
    merged = core(
        gateway(https("a", "cert", hostname="a.io"), https("b", "cert", hostname="b.io"), name="one"),
        gateway(https("c", "cert", hostname="c.io"), name="two"),
        tls_secret("cert", "a.io", "b.io", "c.io"),
        policy("ClientTrafficPolicy", "http3: {}", name="mine", target="Gateway/one/a"),
    )

    chains = sent(merged, "default/one/a-quic").filter_chains
    ports = [
        http3_port(merged.db, ListenerId(owner, owner, name))
        for owner, name in ((ONE, "a"), (ONE, "b"), (TWO, "c"))
    ]

    assert [[*chain.filter_chain_match.server_names] for chain in chains] == [["a.io"], ["b.io"]]
    assert ports == [443, 443, 0]


def test_a_policy_of_one_gateway_does_not_hold_where_another_shares_its_plaintext_port() -> None:
    """All connections to the port meet one connection manager; its status says why it does not hold."""
    merged = core(
        gateway(http("web", "a.io"), name="one"),
        policy("ClientTrafficPolicy", LIMITS, name="mine", target="Gateway/one"),
    )
    alone = sent(merged, "default/one/web")
    assert [c.status for c in accepted(merged, "mine")] == ["True"]

    merged.apply(gateway(http("web", "b.io"), name="two"))

    shared = sent(merged, "default/one/web")
    assert (alone.per_connection_buffer_limit_bytes.value, len(alone.default_filter_chain.filters)) == (
        2**20,
        2,
    )
    assert (shared.per_connection_buffer_limit_bytes.value, len(shared.default_filter_chain.filters)) == (
        2**15,
        1,
    )
    assert [manager(each.default_filter_chain).merge_slashes for each in (alone, shared)] == [False, True]
    [condition] = accepted(merged, "mine")
    assert (condition.status, condition.reason) == ("False", "Invalid")
    assert "shares its port, and so its connections, with default/two/web" in condition.message


def test_a_policy_of_one_gateway_holds_for_its_own_tls_chain_but_not_for_a_port_of_several() -> None:
    merged = core(
        tls_secret("cert", "x.io"),
        gateway(https("web", "cert", hostname="a.io"), name="one"),
        gateway(https("web", "cert", hostname="b.io"), name="two"),
        policy("ClientTrafficPolicy", LIMITS, name="mine", target="Gateway/one"),
    )

    port = sent(merged, "default/one/web")

    assert port.per_connection_buffer_limit_bytes.value == 2**15
    assert [len(chain.filters) for chain in port.filter_chains] == [2, 1]
    assert [manager(chain).merge_slashes for chain in port.filter_chains] == [False, True]
    [condition] = accepted(merged, "mine")
    assert (condition.status, condition.reason) == ("False", "Conflicted")
    assert "spec.connection" in condition.message
    assert "shared with default/two/web of another Gateway" in condition.message


def test_a_policy_that_sets_nothing_of_a_port_as_a_whole_has_no_conflict() -> None:
    merged = core(
        tls_secret("cert", "x.io"),
        gateway(https("web", "cert", hostname="a.io"), name="one"),
        gateway(https("web", "cert", hostname="b.io"), name="two"),
        policy(
            "ClientTrafficPolicy",
            "connection: {connectionLimit: {value: 5}}",
            name="mine",
            target="Gateway/one",
        ),
    )

    assert [c.status for c in accepted(merged, "mine")] == ["True"]

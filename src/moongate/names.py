"""The names of xDS resources: Envoy Gateway's, because patches, dashboards and logs are written against them.

Source: the reference's naming scheme v1.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from moongate.api.base import ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet

if TYPE_CHECKING:
    from moongate.api.base import FleetId

INVALID_CLUSTER = "invalid-backend-cluster"
"""Carries the weight of backends that cannot be used; it is never defined, so its share gets an error."""

SYSTEM_AUTHORITIES = "system_ca_certificates"
"""The secret with the CAs that the system trusts."""
EMPTY_CLUSTER = "EmptyCluster"
"""Has no endpoints: connections are sent there that no route takes, and so are closed. Also their chain."""
ALL_RULES = -1
"""Stands for the rules of a route of connections: their backends are taken together."""
OF_SERVER_NAMES = -2
"""Stands for them where connections go to the hosts that their clients ask for."""

SCOPES = "xdstp:///envoy.config.route.v3.ScopedRouteConfiguration/"
"""What the names of all parts of scoped tables begin with."""
OTHERS = "_"
"""The part of a scoped table with what has no part of its own. No hostname has an underscore."""


_MOST_OF_PATH: Final = 48
"""How many bytes of a path a name has."""


def fleet(of: FleetId) -> str:
    """The key of a fleet's Envoys: their ``node.cluster``, and the name of the local cluster."""
    return f"{of.owner.namespace}/{of.owner.name}" if of.owner.namespace else of.owner.name


def listener(of: ListenerId) -> str:
    """A listener, its plain-HTTP route configuration, its filter chain."""
    owners = dict.fromkeys((of.gateway, of.owner))
    return "/".join((*(f"{ref.namespace}/{ref.name}" for ref in owners), of.name))


def listener_of(name: str) -> ListenerId | None:
    """The listener that ``listener`` names; ``None`` when it is no such name."""
    match name.split("/"):
        case [namespace, gateway, name]:
            owner = Ref.of(Gateway, namespace, gateway)
            return ListenerId(owner, owner, name)
        case [namespace, gateway, of_set, listener_set, name]:
            return ListenerId(
                Ref.of(Gateway, namespace, gateway), Ref.of(ListenerSet, of_set, listener_set), name
            )
        case _:
            return None


def scoped_table(table: str) -> str:
    """A route configuration in parts, one for each hostname; open connections may still use the whole one."""
    return f"{table}/scoped"


def chain_of_table(table: str) -> str:
    """The chain that uses a scoped table."""
    return table.removesuffix("/scoped")


def scopes(table: str) -> str:
    """The collection of the parts of a scoped table."""
    return scope(table, "*")


def scope(table: str, host: str) -> str:
    """One part of a scoped table: of a hostname, or of all that have no part of their own (``OTHERS``)."""
    return f"{SCOPES}{table}/{host}"


def table_of_scope(name: str) -> str:
    """The scoped table that a part belongs to."""
    return name.removeprefix(SCOPES).rpartition("/")[0]


def virtual_host(of: ListenerId, host: str) -> str:
    return f"{listener(of)}/{underscored(host)}"


def rule(route: Ref, index: int) -> str:
    """A rule, and the cluster that its backends share."""
    return f"{route.kind.lower()}/{route.namespace}/{route.name}/rule/{index}"


def connection_chain(route: Ref) -> str:
    """The filter chain of a route of connections."""
    return f"{route.kind.lower()}/{route.namespace}/{route.name}"


def connection_cluster(route: Ref, rules: int = ALL_RULES) -> str:
    """The cluster that all backends of a route of connections share."""
    return rule(route, rules)


def stable_rule(route: Ref, identity: str) -> str:
    """What ``rule`` names by its index, named by what it is: no other rule takes it over when rules move."""
    return f"{route.kind.lower()}/{route.namespace}/{route.name}/rule/{identity}"


def route(of_rule: str, match: int, host: str, *, preflight: bool = False) -> str:
    """One Envoy route; ``match`` is -1 for a rule without matches."""
    return f"{of_rule}/match/{match}/{'cors-preflight/' if preflight else ''}{underscored(host)}"


def backend(cluster: str, index: int) -> str:
    """One backendRef of a rule: its locality, and its cluster when it has one of its own. -1 for mirrors."""
    return f"{cluster}/backend/{index}"


def mirror(of_rule: str, filter_index: int) -> str:
    return f"{of_rule}-mirror-{filter_index}"


def of_listener(cluster: str, listener_: ListenerId) -> str:
    """A cluster of a rule for one of the listeners that the route is on, whose policies ask for another."""
    return f"{cluster}/listener/{listener(listener_)}"


def merged_backend(target: Ref, port: int, protocol: str) -> str:
    """A cluster that all rules with that backend share (``mergeBackends``)."""
    name = f"{target.kind.lower()}/{target.namespace}/{target.name}/{port}"
    return f"{name}/{protocol.lower()}" if protocol else name


def policy_cluster(owner: Ref, what: str, index: int) -> str:
    """A cluster that a field of a policy needs; ``what`` is the field's own word for it, like ``extauth``."""
    return f"{owner.kind.lower()}/{owner.namespace}/{owner.name}/{what}/{index}"


def auth_cluster(route: Ref, server: Ref, port: int, protocol: str) -> str:
    """The cluster of a server that rules of a route ask who may pass, named by what it is."""
    at = "/".join((server.kind.lower(), server.namespace, server.name, str(port), protocol.lower()))
    return f"{route.kind.lower()}/{route.namespace}/{route.name}/externalauth/{at}"


def host_cluster(host: str, port: int) -> str:
    """The cluster of a host that policies name by URL."""
    return f"{underscored(host)}_{port}"


STATISTICS_CLUSTER = "prometheus_stats"
"""The cluster of Envoy's own statistics, in its bootstrap."""
TRACING = "tracing"
"""The cluster that spans are sent to."""


def access_log_sink(kind: str, setting: int, sink: int) -> str:
    """The cluster that a sink of access logs sends to; ``kind`` is ``als`` or ``otel``."""
    return f"accesslog_{kind}_{setting}_{sink}"


def metric_sink(index: int) -> str:
    """The cluster that a sink of statistics sends to."""
    return f"otel_metric_sink_{index}"


def secret(ref: Ref) -> str:
    return f"{ref.namespace}/{ref.name}"


def authorities(owner: Ref) -> str:
    """The secret with the CAs that a BackendTLSPolicy or Backend names."""
    return f"{owner.name}/{owner.namespace}-ca"


def client_authorities(gateway: Ref, place: str) -> str:
    """The secret with the CAs that a Gateway names for clients, by default or for a port."""
    return f"gateway/{gateway.namespace}/{gateway.name}/{place}/ca.crt"


def quic(listener: str) -> str:
    """The Envoy listener for HTTP/3 beside another one; the reverse of what ``XDSNameSchemeV2`` has.

    Args:
        listener: the name of the other one, ``default/web/https`` or ``tcp-443``.
    """
    scheme, _, port = listener.rpartition("-")
    return f"udp-{port}" if scheme == "tcp" and port.isdecimal() else f"{listener}-quic"


def policy_authorities(policy: Ref, lists_of: Ref | None = None) -> str:
    """The secret with the CAs that a ClientTrafficPolicy names for clients.

    Args:
        policy: the policy.
        lists_of: another policy, if that names the lists of revoked certificates.
    """
    others = f"{lists_of.namespace}/{lists_of.name}/" if lists_of is not None else ""
    return f"{policy.namespace}/{policy.name}/{others}ca.crt"


def secret_server(socket: str) -> str:
    """The cluster of a server that has secrets, by the path of its socket."""
    path = socket.replace("/", "_").strip("_")
    while len(path.encode()) > _MOST_OF_PATH:
        path = path[:-1]
    return "_".join(filter(None, ("sds", path, sha256(socket.encode()).hexdigest()[:32])))


def tls_match(cluster: str, index: int) -> str:
    """How a cluster speaks TLS to one of its backends."""
    return f"{cluster}/tls/{index}"


def secure_assignment(cluster: str, form: str) -> str:
    """The endpoints of a cluster that speaks TLS, as Envoy asks for them; ``form`` tells how it does."""
    return f"{cluster}/tls/{form}"


def underscored(host: str) -> str:
    return host.replace(".", "_")

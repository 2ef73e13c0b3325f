"""What a cluster is built from: a backend, a rule or one backendRef of it, a mirror, a sink, a policy's need.

Theory of operation
===================
A key says enough for ``clusters`` to build the cluster and its endpoints. Whatever sends requests somewhere
names the keys of what it needs, as ``destinations`` does for rules. The name in xDS is a part of the key: two
keys of one fleet with the same name must be equal, or two clusters would contend for it.

With ``mergeBackends`` a rule is known by what it is (``StableRule``), otherwise by its index, as in the
reference. An index passes to another rule when rules move, and with it the cluster, while Envoy still routes
by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from moongate import names

if TYPE_CHECKING:
    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.api.shared import LocalObjectReference
    from moongate.attach.backends import Target
    from moongate.attach.client_validation import Authorities
    from moongate.attach.route_kinds import Protocol
    from moongate.features.base import ExtraCluster, ExtraSecret


class StableRule(NamedTuple):
    """A rule of a route, known by what it is.

    Args:
        name: the rule's name, "" for none.
        members: the backends that the cluster is for, each with the index of its backendRef; none for a
            mirror's. Weights are no part of it: they may change while Envoy routes by the name.
        nth: its index among the rules of the route that have the same name and members: each of them has a
            cluster of its own, for the weights that they may differ in.
    """

    name: str
    members: tuple[tuple[int, Target], ...] = ()
    nth: int = 0


class BackendCluster(NamedTuple):
    """The cluster that all rules share which send to a backend.

    ``mergeBackends`` and ``mergeGateways`` exclude each other, so its fleet is that of one Gateway.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        target: the backend.
        protocol: what is spoken to it.
    """

    name: str
    fleet: FleetId
    target: Target
    protocol: Protocol


class RuleCluster(NamedTuple):
    """The cluster of a rule, or of one of its backendRefs.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        route: the route.
        rule: the rule, by its index or by what it is.
        backend: index of the backendRef that it serves alone, -1 for all of the rule.
        extensions: the HTTPRouteFilters of the rule or the backendRef that it has HTTP filters of.
        listener: whose policies it has; ``None`` for those of the first listener that the route is on.
    """

    name: str
    fleet: FleetId
    route: Ref
    rule: int | StableRule
    backend: int = -1
    extensions: tuple[LocalObjectReference, ...] = ()
    listener: ListenerId | None = None


class MirrorCluster(NamedTuple):
    """The cluster of a mirror of a rule.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        route: the route.
        rule: the rule, by its index or by what it is.
        target: where copies go.
        listener: as in ``RuleCluster``.
    """

    name: str
    fleet: FleetId
    route: Ref
    rule: int | StableRule
    target: Target
    listener: ListenerId | None = None


class PolicyCluster(NamedTuple):
    """A cluster that a feature of a policy needs.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        made_of: where its requests go, and how.
    """

    name: str
    fleet: FleetId
    made_of: ExtraCluster


class SinkCluster(NamedTuple):
    """The cluster that a fleet's Envoys report to: access logs, traces or statistics.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
    """

    name: str
    fleet: FleetId


class PolicySecret(NamedTuple):
    """A secret that a feature of a policy needs.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        found_in: the Secret that holds it.
    """

    name: str
    fleet: FleetId
    found_in: ExtraSecret


class AuthoritiesSecret(NamedTuple):
    """The CAs that a cluster checks its backends by.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        owner: the BackendTLSPolicy or Backend that names them; ``None`` for those of the system.
    """

    name: str
    fleet: FleetId
    owner: Ref | None


class ClientAuthoritiesSecret(NamedTuple):
    """The CAs that listeners check their clients by.

    Args:
        fleet: the fleet it belongs to.
        of: who names them.
    """

    fleet: FleetId
    of: Authorities

    @property
    def name(self) -> str:
        """Its name in xDS."""
        return self.of.secret


class CertificateSecret(NamedTuple):
    """The certificate that a cluster shows to its backends.

    Args:
        fleet: the fleet it belongs to.
        secret: the Secret that holds it.
    """

    fleet: FleetId
    secret: Ref

    @property
    def name(self) -> str:
        """Its name in xDS."""
        return names.secret(self.secret)


class SecretServerCluster(NamedTuple):
    """The cluster of a server that Envoy asks for secrets.

    Args:
        name: its name in xDS.
        fleet: the fleet it belongs to.
        socket: the path of its Unix socket.
    """

    name: str
    fleet: FleetId
    socket: str


ClusterKey: TypeAlias = BackendCluster | RuleCluster | MirrorCluster | PolicyCluster | SinkCluster

SecretKey: TypeAlias = PolicySecret | AuthoritiesSecret | ClientAuthoritiesSecret | CertificateSecret

ResourceKey: TypeAlias = ClusterKey | SecretKey | SecretServerCluster
"""What a route or a listener may need to be there: a cluster with its endpoints, or a secret."""

"""Which certificates clients must show: ``tls.frontend`` of a Gateway, and the authorities of policies.

Theory of operation
===================
``default`` holds for all HTTPS listeners of a Gateway, and an entry of ``perPort`` in its place for those of
a port, also an entry that asks for nothing. ``client_validation`` says what a listener asks for, and reads no
certificates; ``client_authorities`` reads them. So other CAs run one secret again, and what drains the
connections that were checked by the former ones (``xds.filter_chains``).

A ClientTrafficPolicy may say otherwise for a listener (``policies.http_listeners``). What it names is a
``PolicyAuthorities``, and has the same queries.

Rules
=====
1. If a reference leads nowhere, or no CA is left, the listener is not served: nobody passes unchecked.
2. Listeners of TLS, which pass connections on, are not concerned, as in the reference.

Source: Gateway API, GEP-91 (client certificate validation); the reference for reasons and names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from msgspec import structs

from moongate import names
from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.gateway import Gateway
from moongate.attach.authorities import KINDS, Bundle, bundle, revoked, source, valid_bundle
from moongate.attach.certificates import Unlisted, refused_as_it_is, size_of_names, unlisted
from moongate.attach.fleets import fleet_of
from moongate.attach.grants import granted
from moongate.engine import query
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.wire import Encoded, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import FleetId
    from moongate.api.gateway import FrontendTLSConfig, FrontendTLSValidation
    from moongate.api.shared import ObjectReference
    from moongate.attach.certificates import RefusedCertificate
    from moongate.attach.secret_servers import ServedSecret
    from moongate.engine import Db

DEFAULT: Final = "default"
"""The place of what holds for ports without an entry of their own."""
NO_AUTHORITY: Final = "NoValidCACertificate"
"""The reason of a listener that is not accepted as its CAs cannot be used."""
MOST_NAMES_BYTES: Final = 0xFFFF
"""What a TLS server has for the names of its CAs (RFC 8446, ``certificate_authorities``). Envoy sends all."""


class ClientAuthorities(NamedTuple):
    """CAs that certificates of clients must come from.

    Args:
        gateway: who names them.
        place: ``default``, or the port that they are for.
    """

    gateway: Ref
    place: str

    @property
    def secret(self) -> str:
        """The name of the secret with them in xDS."""
        return names.client_authorities(self.gateway, self.place)


class PolicyAuthorities(NamedTuple):
    """CAs that a ClientTrafficPolicy names.

    Args:
        policy: who names them.
        sources: where their certificates are, each with the path of its reference.
        lists: where the lists of revoked certificates are, in the same way.
        lists_of: the policy that names the lists, after a merge.
        only_leaf: whether the lists are for the certificates of clients alone, and not for those between.
    """

    policy: Ref
    sources: tuple[tuple[str, Ref], ...]
    lists: tuple[tuple[str, Ref], ...] = ()
    lists_of: Ref | None = None
    only_leaf: bool = False

    @property
    def secret(self) -> str:
        """The name of the secret with them in xDS."""
        return names.policy_authorities(self.policy, self.lists_of)


Authorities: TypeAlias = ClientAuthorities | PolicyAuthorities
"""Those that certificates of clients must come from."""


class ClientValidation(Encoded, frozen=True):
    """What a listener asks of its clients.

    Args:
        authorities: who their certificates must come from; ``None`` if nobody is named.
        required: whether a client must show a certificate.
        verified: whether the certificate that a client shows must come from the authorities; else it may show
            any.
        conditions: what else must hold of a certificate, as an encoded ``CertificateValidationContext``.
        closed: whether what is asked cannot be checked. Then nobody passes of whom it is asked.
    """

    authorities: Authorities | None
    required: bool
    verified: bool
    conditions: bytes = b""
    closed: bool = False

    @property
    def only_valid(self) -> bool:
        """Whether nobody passes without a certificate that was checked."""
        return self.required and self.verified

    def shut(self) -> ClientValidation:
        """The same where it cannot be checked."""
        return structs.replace(self, authorities=None, conditions=b"", closed=True)


def validations(gateway: Gateway) -> Iterator[tuple[str, str, FrontendTLSValidation]]:
    """All that a Gateway asks of clients: place, path and field; also for ports without a listener."""
    frontend = _frontend(gateway)
    if frontend is None:
        return
    if frontend.default.validation is not None:
        yield DEFAULT, "spec.tls.frontend.default.validation", frontend.default.validation
    for n, each in enumerate(frontend.per_port):
        if each.tls.validation is not None:
            yield str(each.port), f"spec.tls.frontend.perPort[{n}].tls.validation", each.tls.validation


def client_validation(gateway: Gateway, port: int) -> ClientValidation | None:
    """What HTTPS listeners of a port ask of their clients; ``None`` for no certificate."""
    frontend = _frontend(gateway)
    if frontend is None:
        return None
    own = next((each for each in frontend.per_port if each.port == port), None)
    validation = (own.tls if own is not None else frontend.default).validation
    if validation is None:
        return None
    place = DEFAULT if own is None else str(port)
    only_valid = validation.mode == "AllowValidOnly"
    return ClientValidation(ClientAuthorities(gateway.ref, place), required=only_valid, verified=only_valid)


def _frontend(gateway: Gateway) -> FrontendTLSConfig | None:
    return gateway.spec.tls.frontend if gateway.spec.tls is not None else None


@query
def client_authorities(db: Db, of: Authorities) -> Bundle | Problem:
    """The CAs for clients that a Gateway names at a place, or a policy, or why there are none."""
    return _of_policy(db, of) if isinstance(of, PolicyAuthorities) else _of_gateway(db, of)


def _of_policy(db: Db, of: PolicyAuthorities) -> Bundle | Problem:
    authorities = valid_bundle(db, of.sources)
    if isinstance(authorities, Problem):
        return authorities
    lists = revoked(db, of.lists)
    if isinstance(lists, Problem):
        return lists
    if lists and authorities.server is not None:
        message = "These CAs are of another server, so it must have the lists of what they revoked as well."
        return Problem(of.lists[0][0], message)
    return _small_enough(of.sources[0][0].partition("[")[0], structs.replace(authorities, revoked=lists))


def _of_gateway(db: Db, of: ClientAuthorities) -> Bundle | Problem:
    path, refs = _named(db, of)
    sources: list[tuple[str, Ref]] = []
    for n, ref in enumerate(refs):
        at = f"{path}[{n}]"
        to = source(ref.kind, ref.namespace or of.gateway.namespace, ref.name)
        if to is None:
            continue
        if to.namespace and not granted(db, GATEWAY_GROUP, of.gateway.kind, of.gateway.namespace, to):
            message = f"No ReferenceGrant in namespace {to.namespace} lets this Gateway use {to}."
            return Problem(at, message, "RefNotPermitted")
        sources.append((at, to))
    if not refs:
        return Problem("", f"{of.gateway} names no CA for clients there.", NO_AUTHORITY)
    if not sources:
        message = f"The kind is {refs[0].kind!r}; it must be one of {', '.join(KINDS)}."
        return Problem(f"{path}[0].kind", message, "InvalidCACertificateKind")
    authorities = bundle(db, sources)
    return authorities if isinstance(authorities, Problem) else _small_enough(path, authorities)


def _small_enough(path: str, authorities: Bundle) -> Bundle | Problem:
    """CAs whose names have room in a handshake, or the problem that they have none."""
    if len(authorities.pem) <= MOST_NAMES_BYTES:
        return authorities
    size = size_of_names(authorities.pem)
    if size <= MOST_NAMES_BYTES:
        return authorities
    message = (
        f"The names of these CAs take {size} bytes. A TLS handshake has {MOST_NAMES_BYTES} for them, so no "
        "client could connect; name fewer CAs."
    )
    return Problem(path, message, "InvalidCACertificateRef")


@query
def client_authorities_fault(db: Db, of: Authorities) -> Problem | None:
    """Why there are no CAs, whatever Envoy says of them; another CA is no other answer."""
    authorities = client_authorities(db, of)
    return authorities if isinstance(authorities, Problem) else None


@query
def client_authorities_problem(db: Db, of: ClientAuthorities) -> Problem | None:
    """Why CAs for clients cannot be used; another CA is no other answer."""
    authorities = client_authorities(db, of)
    if isinstance(authorities, Problem):
        return authorities
    refused = client_authorities_refusal(db, fleet_of(db, of.gateway), of)
    return _refused(db, of, refused) if refused is not None and refused.before is None else None


@query
def client_authorities_outdated(db: Db, of: ClientAuthorities) -> Problem | None:
    """Why clients are checked by the CAs that Envoy took before; ``None`` if they are not."""
    refused = client_authorities_refusal(db, fleet_of(db, of.gateway), of)
    if refused is None or refused.before is None:
        return None
    effect = "Until it takes new ones, clients are checked by those before."
    return _refused(db, of, refused).saying(effect)


def _refused(db: Db, of: ClientAuthorities, refused: RefusedCertificate) -> Problem:
    path, _ = _named(db, of)
    return Problem(path, refused_words(refused), "InvalidCACertificateRef")


def refused_words(refused: RefusedCertificate) -> str:
    """A sentence about CAs that Envoy refuses."""
    return f"Envoy refuses these CAs: {refused.message}."


@query
def client_authorities_contents(db: Db, of: Authorities) -> str:
    """What tells one state of CAs for clients from the next."""
    authorities = client_authorities(db, of)
    if isinstance(authorities, Problem):
        return ""
    only_leaf = b"leaf" if isinstance(of, PolicyAuthorities) and of.only_leaf else b""
    return fingerprint(authorities.pem + authorities.revoked + only_leaf)


@query
def client_authorities_unlisted(db: Db, of: PolicyAuthorities) -> Unlisted:
    """The CAs of a policy whose clients are refused, as it names lists of revoked certificates of others."""
    authorities = client_authorities(db, of)
    if isinstance(authorities, Problem) or not authorities.revoked:
        return Unlisted((), ())
    return unlisted(authorities.pem + authorities.revoked)


@query
def client_authorities_server(db: Db, of: Authorities) -> ServedSecret | None:
    """The server that has the CAs, instead of moongate."""
    authorities = client_authorities(db, of)
    return None if isinstance(authorities, Problem) else authorities.server


@query
def client_authorities_refusal(db: Db, fleet: FleetId, of: Authorities) -> RefusedCertificate | None:
    """Why the Envoys of a fleet refuse CAs for clients as they are now; ``None`` as far as is known."""
    return refused_as_it_is(db, fleet, of, client_authorities_contents)


@query
def _named(db: Db, of: ClientAuthorities) -> tuple[str, tuple[ObjectReference, ...]]:
    """The path of the references of a place, and the references."""
    gateway = get(db, Gateway, of.gateway)
    for place, path, validation in validations(gateway) if gateway is not None else ():
        if place == of.place:
            return f"{path}.caCertificateRefs", validation.ca_certificate_refs
    return "", ()

"""Which certificates a listener serves, of those that its ``tls.certificateRefs`` name.

Source: Gateway API, ``ListenerTLSConfig`` and ReferenceGrant; the reference for two certificates of one name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.core import Secret
from moongate.attach.certificates import Certificate, Fault, certificate, out_of_date, refusal
from moongate.attach.fleets import fleet_of
from moongate.attach.grants import granted
from moongate.attach.listener_sets import listener_specs
from moongate.attach.secret_servers import ServedSecret, served_secret
from moongate.engine import query
from moongate.problem import Problem

if TYPE_CHECKING:
    from moongate.api.base import ListenerId
    from moongate.api.shared import SecretObjectReference
    from moongate.engine import Db


class ListenerCertificates(Struct, frozen=True):
    """The certificates of one listener.

    Args:
        served: Secrets to serve, in order.
        servers: those of them that stand for secrets of other servers, and for which.
        outdated: those of them of which Envoy refuses the newest contents, and serves the ones before.
        sans: the DNS names of their certificates; those of other servers are not known.
        faults: why the others are not served, and why these are outdated, each at its reference, with a path
            within the listener.
    """

    served: tuple[Ref, ...]
    servers: tuple[tuple[Ref, ServedSecret], ...]
    outdated: tuple[Ref, ...]
    sans: tuple[str, ...]
    faults: tuple[Problem, ...]


@query
def listener_certificates(db: Db, listener: ListenerId) -> ListenerCertificates:
    """The certificates that a listener serves; two for one name must differ in the kind of their key."""
    served: dict[Ref, Certificate | ServedSecret] = {}
    outdated: list[Ref] = []
    faults: list[Problem] = []
    by_name: dict[tuple[str, str], Ref] = {}
    for n, target in enumerate(certificate_refs(db, listener)):
        path = f"tls.certificateRefs[{n}]"
        if isinstance(target, Problem):
            faults.append(target.under(path))
            continue
        judged = out_of_date(db, target) or certificate(db, target)
        if isinstance(judged, Fault):
            judged = served_secret(db, target) or judged
        if isinstance(judged, ServedSecret):
            served[target] = judged
            continue
        if isinstance(judged, Fault):
            faults.append(Problem(path, f"{target} {judged.message}", "InvalidCertificateRef"))
            continue
        domains = dict.fromkeys(judged.domains)
        clash = next((d for d in domains if (judged.algorithm, d) in by_name), None)
        if clash is not None:
            first = by_name[judged.algorithm, clash]
            message = f"{target} is a second {judged.algorithm} certificate for {clash}, after {first}."
            faults.append(Problem(path, message, "InvalidCertificateRef"))
            continue
        if (refused := refusal(db, fleet_of(db, listener.gateway), target)) is not None:
            message = f"Envoy refuses {target}: {refused.message}."
            if refused.before is not None:
                message += " Until it takes a new version, it serves the one before."
            faults.append(Problem(path, message, "InvalidCertificateRef"))
            if refused.before is None:
                continue
            outdated.append(target)
        by_name |= dict.fromkeys(((judged.algorithm, d) for d in domains), target)
        served[target] = judged
    sans = tuple(san for each in served.values() if isinstance(each, Certificate) for san in each.sans)
    servers = tuple((ref, each) for ref, each in served.items() if isinstance(each, ServedSecret))
    return ListenerCertificates(tuple(served), servers, tuple(outdated), sans, tuple(faults))


@query
def certificate_refs(db: Db, listener: ListenerId) -> tuple[Ref | Problem, ...]:
    """The Secret behind each certificateRef of a listener, or why the listener may not use it."""
    specs = listener_specs(db, listener.owner)
    tls = next((spec.tls for spec in specs if spec.name == listener.name), None)
    return tuple(
        _target(db, listener.owner, ref) for ref in (tls.certificate_refs if tls is not None else ())
    )


def _target(db: Db, owner: Ref, ref: SecretObjectReference) -> Ref | Problem:
    if (ref.group, ref.kind) != ("", Secret.KIND):
        message = f"{ref.group or 'core'}/{ref.kind} is not served; it must be a Secret of the core group."
        return Problem("", message, "InvalidCertificateRef")
    target = Ref.of(Secret, ref.namespace or owner.namespace, ref.name)
    if not granted(db, GATEWAY_GROUP, owner.kind, owner.namespace, target):
        message = f"No ReferenceGrant in namespace {target.namespace} lets this {owner.kind} use {target}."
        return Problem("", message, "RefNotPermitted")
    return target

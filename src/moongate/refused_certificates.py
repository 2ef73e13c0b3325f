"""Keeping account of the certificates that Envoys refuse, although moongate took them.

Theory of operation
===================
Envoy takes a listener before it has its certificates, and checks these when they come. If it refuses one,
that is written into a cell. Then the Envoys of the fleet are sent again the version of the Secret that they
took last; if they never took one, its listeners go without it. The statuses of the listeners say so. A new
version of the Secret is tried at once.

The same goes for certificates that clusters show to backends, and for the CAs by which they check those. If
Envoys never took any, the backends get no request. So it is for the CAs by which listeners check clients; if
Envoys never took any, these listeners are not served.

Facts
-----
* an Envoy keeps a certificate that it refuses, beside the one in force, and refuses any change of a listener
  that uses it. So what was in force is to be sent again, and listeners are to be tried again then
* an Envoy loads a certificate together with the CAs beside it, once it has both, and refuses the one that
  came last. Where its message is about the other one, which may be of another server and be mended there,
  that is not held against the one that came last
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.backend_tls import OF_SYSTEM, authorities_contents
from moongate.attach.certificates import RefusedCertificate, contents, refused_certificate
from moongate.attach.client_validation import (
    Authorities,
    ClientAuthorities,
    PolicyAuthorities,
    client_authorities_contents,
)
from moongate.engine import Failed
from moongate.recent_versions import RecentVersions
from moongate.xds.cluster_keys import AuthoritiesSecret, ClientAuthoritiesSecret
from moongate.xds.wire import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moongate.api.base import FleetId
    from moongate.engine import Db
    from moongate.world import World
    from moongate.xds.wire import XdsResource

_OF_AUTHORITIES: Final = ("Failed to load trusted CA certificates",)
_OF_CERTIFICATES: Final = ("Failed to load certificate chain", "Failed to load private key")
"""How messages of Envoy begin that are about CAs, and about certificates that are shown."""


class _Fleet:
    def __init__(self) -> None:
        self.sent: defaultdict[str, RecentVersions[XdsResource]] = defaultdict(RecentVersions)
        """By name, the recent versions of a certificate."""
        self.news: dict[str, tuple[str, str]] = {}
        """By name, the version that was refused last and is to be judged, and why it was."""
        self.refused: dict[str, tuple[Ref | Authorities, RefusedCertificate]] = {}
        """By name, the sources whose cells say something, and what."""


class RefusedCertificates:
    """Takes what Envoys answer about certificates, and writes into cells which they refuse."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fleets: defaultdict[FleetId, _Fleet] = defaultdict(_Fleet)

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone: nothing is known of it any more."""
        for ref, _ in self._fleets.pop(fleet_id, _Fleet()).refused.values():
            self._world.write(refused_certificate(fleet_id, ref), None)

    def handed_out(
        self, fleet_id: FleetId, put: Iterable[XdsResource], gone: Iterable[tuple[str, str]]
    ) -> None:
        """Resources are on their way to the Envoys of a fleet."""
        fleet = self._fleets[fleet_id]
        for resource in put:
            if resource.type_url == SECRET:
                fleet.sent[resource.name].note(resource.version, resource)
        for type_url, name in gone:
            if type_url == SECRET:
                fleet.sent.pop(name, None)

    def acknowledged(self, fleet_id: FleetId, name: str, version: str) -> bool:
        """An Envoy took a version. True if it had refused another one since it last took any."""
        fleet = self._fleets[fleet_id]
        sent = fleet.sent.get(name)
        if sent is None or sent.get(version) is None:
            return False
        sent.acknowledge(version)
        return fleet.news.pop(name, None) is not None or name in fleet.refused

    def refused(self, fleet_id: FleetId, name: str, version: str, message: str) -> None:
        """An Envoy refused a version."""
        self._fleets[fleet_id].news[name] = version, message

    def review(self, fleet_id: FleetId) -> bool:
        """Write what is known by now. True if the world is to be settled again.

        To be called when the world is settled: a resource is then what its Secret says.
        """
        fleet = self._fleets[fleet_id]
        if not self._world.settled:
            return False
        wrote = False
        for name, (version, message) in fleet.news.items():
            current = self._world.resource(fleet_id, SECRET, name)
            arguments = self._world.built_from(fleet_id, SECRET, name)
            ref = _source(arguments)
            if ref is None or current is None or current.version != version:
                continue  # it is another one by now, which has yet to be answered
            if _blames_another(message, arguments):
                continue
            contents = _contents(self._world.db, ref)
            if not isinstance(contents, Failed):
                refused = RefusedCertificate(contents, message, fleet.sent[name].acknowledged())
                wrote |= self._world.write(refused_certificate(fleet_id, ref), refused)
                fleet.refused[name] = ref, refused
        fleet.news.clear()
        for name, (ref, refused) in list(fleet.refused.items()):
            taken = fleet.sent[name].acknowledged()
            if taken is not None and taken != refused.before:
                wrote |= self._world.write(refused_certificate(fleet_id, ref), None)
                del fleet.refused[name]
        return wrote


def _contents(db: Db, source: Ref | Authorities) -> str | Failed:
    """What tells one state of a source from the next."""
    if isinstance(source, ClientAuthorities | PolicyAuthorities):
        return client_authorities_contents.attempt(db, source)
    return (contents if source.is_a(Secret) else authorities_contents).attempt(db, source)


def _blames_another(message: str, arguments: tuple[object, ...]) -> bool:
    """Whether an Envoy refuses a secret for a fault of what it is used with."""
    is_trust = any(isinstance(each, AuthoritiesSecret | ClientAuthoritiesSecret) for each in arguments)
    return any(words in message for words in (_OF_CERTIFICATES if is_trust else _OF_AUTHORITIES))


def _source(arguments: tuple[object, ...]) -> Ref | Authorities | None:
    """The Secret that an xDS secret holds, or what names its CAs; ``None`` for others."""
    for each in arguments:
        if isinstance(each, AuthoritiesSecret):
            return each.owner or OF_SYSTEM
        if isinstance(each, ClientAuthoritiesSecret):
            return each.of
        if isinstance(each, Ref) and each.is_a(Secret):
            return each
    return None

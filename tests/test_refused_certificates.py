"""What Envoys go on with that refuse a certificate, over a World and no process."""

from __future__ import annotations

import pytest

from moongate import names
from moongate.api.base import ListenerId, Ref
from moongate.api.core import Secret
from moongate.attach.certificates import refused_certificate
from moongate.attach.listeners import listener_at
from moongate.recent_versions import MOST_VERSIONS
from moongate.refused_certificates import RefusedCertificates
from moongate.status.backend_tls import backend_tls_status
from moongate.world import World
from moongate.xds.destinations import rule_destination
from moongate.xds.wire import LISTENER, SECRET, XdsResource
from tests.attach.test_backend_tls import config_map, policy_ref, tls_policy
from tests.core import EG, GATEWAY_CLASS, ON_HOST, certificate, gateway, new_key, read, tls_secret
from tests.routes import http_route, route_ref, service
from tests.worlds import EG_FLEET

CERT = "default/cert"
CELL = refused_certificate(EG_FLEET, Ref.of(Secret, "default", "cert"))
SERVED = ListenerId(EG, EG, "tls")


class Fleet:
    """A Gateway with one certificate, and Envoys that answer as a test says."""

    name = CERT
    """The secret that Envoys answer about."""

    def __init__(self) -> None:
        self.world = World(ON_HOST)
        self.certificates = RefusedCertificates(self.world)
        tls = "{name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}"
        self.write(GATEWAY_CLASS, gateway(tls))

    def write(self, *manifests: str) -> None:
        self.world.apply({each.ref: each for text in manifests for each in read(text)})
        self.settle()

    def renew(self) -> None:
        self.write(tls_secret("cert", "x.io"))

    def settle(self) -> None:
        changes = self.world.pull()
        name = "default/eg"
        self.certificates.handed_out(EG_FLEET, changes.put.get(name, ()), changes.gone.get(name, ()))

    def secret(self) -> XdsResource | None:
        """The secret, as it was handed out last."""
        return self.world.resource(EG_FLEET, SECRET, self.name)

    def answer(self, *, takes: bool, of: XdsResource | None = None, why: str = "odd") -> bool:
        """Let an Envoy answer; whether it took one after it had refused some."""
        answered = of or self.secret()
        assert answered is not None
        if takes:
            after = self.certificates.acknowledged(EG_FLEET, self.name, answered.version)
        else:
            after = False
            self.certificates.refused(EG_FLEET, self.name, answered.version, why)
        if self.certificates.review(EG_FLEET):
            self.settle()
        return after

    def resolved(self) -> tuple[str, str]:
        listener = listener_at(self.world.db, SERVED)
        assert listener is not None
        return next((c.reason, c.message) for c in listener.conditions if c.type == "ResolvedRefs")


def test_envoys_get_again_what_they_took_last() -> None:
    fleet = Fleet()
    fleet.renew()
    first = fleet.secret()
    fleet.answer(takes=True)

    fleet.renew()
    newest = fleet.secret()
    fleet.answer(takes=False)

    assert first != newest
    assert fleet.secret() == first
    reason, message = fleet.resolved()
    assert reason == "InvalidCertificateRef"
    assert message.endswith(
        "tls.certificateRefs[0]: Envoy refuses Secret default/cert: odd. "
        "Until it takes a new version, it serves the one before."
    )
    assert fleet.answer(takes=True), "listeners may have been refused meanwhile"
    assert fleet.secret() == first

    fleet.renew()

    assert fleet.secret() not in (first, newest)
    assert fleet.resolved()[0] == "ResolvedRefs"
    assert fleet.answer(takes=True)
    assert fleet.world.db.read(CELL) is None
    assert not fleet.answer(takes=True)


def test_a_certificate_that_was_never_taken_leaves_its_listener_until_it_is_another() -> None:
    fleet = Fleet()
    fleet.renew()
    fleet.answer(takes=False)

    assert fleet.secret() is None
    assert fleet.world.resource(EG_FLEET, LISTENER, "default/eg/tls") is None
    assert fleet.resolved()[0] == "InvalidCertificateRef"

    fleet.renew()

    assert fleet.secret() is not None
    assert fleet.world.resource(EG_FLEET, LISTENER, "default/eg/tls") is not None


def test_a_certificate_is_not_to_blame_for_the_authorities_beside_it() -> None:
    """Envoy loads both together, and refuses what came last. Those of another server may be mended there."""
    fleet = Fleet()
    fleet.renew()
    fleet.answer(takes=False, why="Failed to load trusted CA certificates from <inline>")

    assert fleet.secret() is not None
    assert fleet.resolved()[0] == "ResolvedRefs"

    fleet.answer(takes=False, why="Failed to load certificate chain from <inline>")

    assert fleet.secret() is None


def test_a_refusal_of_what_is_another_by_now_counts_no_more() -> None:
    fleet = Fleet()
    fleet.renew()
    late = fleet.secret()
    fleet.renew()
    fleet.answer(takes=False, of=late)

    assert fleet.secret() not in (None, late)
    assert fleet.resolved()[0] == "ResolvedRefs"


def test_an_acknowledgement_counts_although_another_version_is_under_way() -> None:
    fleet = Fleet()
    fleet.renew()
    first = fleet.secret()
    fleet.renew()
    fleet.answer(takes=True, of=first)
    fleet.answer(takes=False)

    assert fleet.secret() == first


def test_a_version_that_was_under_way_when_the_one_before_was_acknowledged_can_be_gone_back_to() -> None:
    """It is acknowledged next, and then the one before it is no longer what was taken last."""
    fleet = Fleet()
    fleet.renew()
    first = fleet.secret()
    fleet.renew()
    second = fleet.secret()
    fleet.answer(takes=True, of=first)
    fleet.answer(takes=True, of=second)
    fleet.renew()
    fleet.answer(takes=False)

    assert fleet.secret() == second


def test_a_fleet_that_is_gone_has_refused_nothing() -> None:
    fleet = Fleet()
    fleet.renew()
    fleet.answer(takes=False)

    fleet.certificates.end(EG_FLEET)
    fleet.settle()

    assert fleet.secret() is not None


def test_few_versions_of_a_certificate_are_kept() -> None:
    fleet = Fleet()
    fleet.renew()
    first = fleet.secret()
    for _ in range(MOST_VERSIONS):
        fleet.renew()
    fleet.answer(takes=True, of=first)
    fleet.answer(takes=False)

    assert fleet.secret() is None


class UpstreamFleet(Fleet):
    """A Gateway with a backend that has TLS: ``name`` is the secret that Envoys answer about."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.world = World(ON_HOST)
        self.certificates = RefusedCertificates(self.world)
        shown = {"backend": {"clientCertificateRef": {"name": "shown"}}}
        served = gateway("{name: web, port: 8080, protocol: HTTP}", tls=shown)
        self.write(GATEWAY_CLASS, served, http_route(), service(), tls_policy(), config_map())
        self.write(tls_secret("shown", "x.io"))

    def renew(self) -> None:
        key = new_key()
        self.write(tls_secret("shown", "x.io"), config_map(ca_crt=certificate(key, common_name="ca")))

    def destination(self) -> tuple[int, str]:
        """What the rule answers instead of the backend, and why."""
        to = rule_destination(self.world.db, ListenerId(EG, EG, "web"), route_ref(), 0)
        return to.status, "".join(problem.message for problem in to.unresolved)


@pytest.mark.parametrize("name", ["policy/default-ca", "default/shown"])
def test_clusters_go_on_with_what_envoys_took_last(name: str) -> None:
    fleet = UpstreamFleet(name)
    first = fleet.secret()
    fleet.answer(takes=True)

    fleet.renew()
    newest = fleet.secret()
    fleet.answer(takes=False)

    assert first != newest
    assert fleet.secret() == first
    assert fleet.destination() == (0, "")

    fleet.renew()
    assert fleet.secret() not in (first, newest)


def test_a_backend_whose_authorities_envoys_never_took_gets_no_request() -> None:
    fleet = UpstreamFleet("policy/default-ca")

    fleet.answer(takes=False)

    status, message = fleet.destination()
    assert status == 500
    assert "Envoy refuses the CAs of BackendTLSPolicy default/policy: odd" in message
    of_policy = backend_tls_status(fleet.world.db, policy_ref())
    assert of_policy is not None
    assert [c.reason for c in of_policy.ancestors[0].conditions] == [
        "NoValidCACertificate",
        "InvalidCACertificateRef",
    ]

    fleet.renew()
    assert fleet.destination() == (0, "")


def test_a_certificate_to_show_that_envoys_never_took_closes_its_backends() -> None:
    fleet = UpstreamFleet("default/shown")

    fleet.answer(takes=False)

    assert fleet.destination()[0] == 500
    fleet.renew()
    assert fleet.destination() == (0, "")


def test_a_file_of_the_system_that_envoys_refuse_is_said_and_closes_its_backends() -> None:
    fleet = UpstreamFleet(names.SYSTEM_AUTHORITIES)
    fleet.write(tls_policy(validation="{wellKnownCACertificates: System, hostname: a.io}"))

    fleet.answer(takes=False)

    assert fleet.destination() == (
        500,
        "Envoy refuses the CAs of the system: odd. Requests are answered with 500.",
    )
    of_policy = backend_tls_status(fleet.world.db, policy_ref())
    assert of_policy is not None
    assert "Envoy refuses the CAs: odd." in of_policy.ancestors[0].conditions[0].message


def test_authorities_of_clients_that_were_never_taken_close_the_listener_and_others_reopen_it() -> None:
    fleet = Fleet()
    fleet.name = "gateway/default/eg/default/ca.crt"
    ca = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ours"}]}
    tls = "{name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}"
    asking = gateway(tls, tls={"frontend": {"default": {"validation": ca}}})

    fleet.write(asking, tls_secret("cert", "x.io"), config_map())
    for fault in ("certificate chain from <inline>", "private key from <inline>"):
        fleet.answer(takes=False, why=f"Failed to load {fault}")
        assert fleet.resolved()[0] == "ResolvedRefs", "it is the certificate beside them that has the fault"

    fleet.answer(takes=False)
    assert fleet.world.resource(EG_FLEET, LISTENER, "default/eg/tls") is None
    assert fleet.resolved()[0] == "InvalidCACertificateRef"

    fleet.write(config_map(ca_crt=certificate(new_key(), common_name="second")))
    taken = fleet.secret()
    fleet.answer(takes=True)
    assert fleet.world.resource(EG_FLEET, LISTENER, "default/eg/tls") is not None

    fleet.write(config_map(ca_crt=certificate(new_key(), common_name="third")))
    fleet.answer(takes=False)
    assert fleet.secret() == taken
    assert fleet.world.resource(EG_FLEET, LISTENER, "default/eg/tls") is not None
    reason, message = fleet.resolved()
    assert reason == "InvalidCACertificateRef"
    assert message.endswith(
        "Envoy refuses these CAs: odd. Until it takes new ones, clients are checked by those before."
    )

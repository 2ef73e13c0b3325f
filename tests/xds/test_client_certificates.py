"""How chains check the certificates of clients, and what happens to open connections when CAs change."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from msgspec import structs

from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.gateway import GatewayClass
from moongate.attach.certificates import RefusedCertificate, refused_certificate
from moongate.attach.client_validation import ClientAuthorities, client_authorities_contents
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.listeners import listeners
from moongate.attach.secret_servers import SDS_SECRET
from moongate.kinds import ref_of
from moongate.policies.http_listeners import authorities_conflict, listener_failed
from moongate.xds.client_certificates import client_authorities_secret
from moongate.xds.cluster_keys import ClientAuthoritiesSecret, SecretServerCluster
from moongate.xds.connection_chains import connection_terms
from moongate.xds.fallbacks import ALL, Fallback
from moongate.xds.filter_chains import (
    DIRECT_RESPONSE,
    ChainSettings,
    closed,
    demands_certificate,
    in_force,
    unreported,
)
from moongate.xds.http_chains import https_settings
from moongate.xds.listeners import concern, listener, listener_parts
from moongate.xds.secrets import listener_needs
from moongate.xds.wire import XdsResource
from tests.attach.test_backend_tls import CA, OTHER_CA, WITH_SDS, config_map
from tests.attach.test_client_validation import CERT, OURS, asking, guarded
from tests.core import (
    EG,
    EG_FLEET,
    IN_CLUSTER,
    ON_HOST,
    Core,
    extension,
    gateway,
    gateway_class,
    http,
    https,
    policy,
    secret,
)
from tests.e2e.certificates import Authority
from tests.listeners import sent, tls_of
from tests.routes import as_dict

MERGED = FleetId(Ref.of(GatewayClass, "", "eg"))
OF_ALL = ClientAuthorities(EG, "default")
SECRET = ClientAuthoritiesSecret(EG_FLEET, OF_ALL)
ADS: dict[str, Any] = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
SOURCE = {"name": "gateway/default/eg/default/ca.crt", "sds_config": ADS}
SERVED = secret("ours", {"secretName": b"ROOT", "url": b"unix:///run/s"}, type_=SDS_SECRET)
OF_SERVER = asking(OURS | {"kind": "Secret"})


def context(core: Core, name: str = "default/eg/web") -> dict[str, Any]:
    """The TLS of the only chain of a listener."""
    [chain] = sent(core, name).filter_chains
    return as_dict(tls_of(chain))


def ends_connections(core: Core) -> bool:
    """Whether the only chain of the listener does nothing else."""
    [chain] = sent(core, "default/eg/web").filter_chains
    return [each.name for each in chain.filters] == [DIRECT_RESPONSE]


def test_clients_must_show_a_certificate_of_the_authorities() -> None:
    tls = context(Core(guarded(), CERT, config_map()))

    assert tls["require_client_certificate"] is True
    assert tls["common_tls_context"]["validation_context_sds_secret_config"] == SOURCE


def test_a_client_with_any_certificate_passes_where_the_mode_says_so() -> None:
    tls = context(Core(guarded(default=asking(mode="AllowInsecureFallback")), CERT, config_map()))

    assert tls["require_client_certificate"] is False
    assert tls["common_tls_context"]["combined_validation_context"] == {
        "default_validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"},
        "validation_context_sds_secret_config": SOURCE,
    }


def test_each_port_has_the_secret_of_its_place() -> None:
    specs = (https("web", "cert"), https("other", "cert", port=8443))
    core = Core(guarded(*specs, port_8443=asking()), CERT, config_map())

    assert [key.name for key in listener_needs(core.db, EG_FLEET)] == [
        "gateway/default/eg/8443/ca.crt",
        "gateway/default/eg/default/ca.crt",
    ]
    tls = context(core, "default/eg/other")
    assert tls["common_tls_context"]["validation_context_sds_secret_config"]["name"].startswith(
        "gateway/default/eg/8443/"
    )


def test_the_secret_has_the_certificates_and_nothing_else() -> None:
    text = b"what people write\n" + CA + b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    core = Core(guarded(), CERT, config_map(ca_crt=text))

    message = Secret.FromString(client_authorities_secret(core.db, SECRET).body)

    assert message.name == "gateway/default/eg/default/ca.crt"
    assert message.validation_context.trusted_ca.inline_bytes == CA


def test_without_authorities_there_is_no_listener_and_no_secret() -> None:
    core = Core(guarded(), CERT, config_map())
    assert listener(core.db, EG_FLEET, "default/eg/web") is not None

    core.delete("ConfigMap", "default", "ours")

    assert listener(core.db, EG_FLEET, "default/eg/web") is None
    assert listener_needs(core.db, EG_FLEET) == ()
    gone = Secret.FromString(client_authorities_secret(core.db, SECRET).body)
    assert gone.validation_context.trusted_ca.inline_bytes == b""


def test_other_authorities_make_another_chain_so_that_open_connections_drain() -> None:
    core = Core(guarded(), CERT, config_map(), config=ON_HOST)
    before = sent(core, "default/eg/web")

    core.apply(config_map(ca_crt=OTHER_CA))
    after = sent(core, "default/eg/web")

    assert before.filter_chains[0].metadata != after.filter_chains[0].metadata
    for message in (before, after):
        message.filter_chains[0].ClearField("metadata")
    assert before == after, "Envoy replaces a chain alone only if nothing else differs"


def test_the_same_certificates_written_otherwise_leave_the_chain() -> None:
    core = Core(guarded(), CERT, config_map(), config=ON_HOST)
    before = sent(core, "default/eg/web")

    core.apply(config_map(ca_crt=b"# renewed\n" + CA))

    assert sent(core, "default/eg/web") == before


def test_without_the_flag_a_chain_says_nothing_of_authorities() -> None:
    core = Core(guarded(), CERT, config_map(), config=IN_CLUSTER)

    assert not sent(core, "default/eg/web").filter_chains[0].HasField("metadata")


def test_a_renewed_authority_costs_its_secret_and_its_chain() -> None:
    specs = (https("web", "cert"), https("other", "cert", port=8443))
    core = Core(guarded(*specs, port_8443=asking(OURS | {"name": "theirs"})), CERT, config_map())
    core.apply(config_map().replace("name: ours", "name: theirs"))
    built = (sent(core, "default/eg/web"), sent(core, "default/eg/other"), listener_needs(core.db, EG_FLEET))

    core.apply(config_map(ca_crt=OTHER_CA))
    with core.ran() as ran:
        again = (
            sent(core, "default/eg/web"),
            sent(core, "default/eg/other"),
            listener_needs(core.db, EG_FLEET),
        )

    assert built == again, "without the flag it is the secret alone"
    assert ran["client_authorities"] == 1
    assert not {"listeners", "https_settings", "listener"} & ran.keys()


def test_authorities_of_another_server_are_asked_for_there() -> None:
    core = Core(
        guarded(default=OF_SERVER),
        CERT,
        SERVED,
        config=structs.replace(WITH_SDS, runtime_flags=ON_HOST.runtime_flags),
    )

    checked = context(core)["common_tls_context"]["combined_validation_context"]
    asked = checked["validation_context_sds_secret_config"]

    # Where the server names no authority, that one holds: it has signed nothing.
    assert list(checked["default_validation_context"]) == ["trusted_ca"]
    assert asked["name"] == "ROOT"
    [key] = listener_needs(core.db, EG_FLEET)
    assert isinstance(key, SecretServerCluster)
    assert asked["sds_config"]["api_config_source"]["grpc_services"] == [
        {"envoy_grpc": {"cluster_name": key.name}}
    ]
    assert not sent(core, "default/eg/web").filter_chains[0].HasField("metadata")


def break_authorities(core: Core) -> None:
    core.db.put(ref_of("ConfigMap", "default", "ours"), "no ConfigMap: reading it raises")


def test_a_bug_in_reading_authorities_closes_and_never_opens() -> None:
    """The listener was open to everybody; now it is to ask for certificates, and moongate fails to."""
    core = Core(gateway(https("web", "cert", hostname="x.io")), CERT)
    assert sent(core, "default/eg/web").filter_chains[0].HasField("transport_socket")
    break_authorities(core)

    core.apply(guarded(https("web", "cert", hostname="x.io")))

    assert ends_connections(core)


def test_a_bug_in_reading_later_authorities_keeps_the_former() -> None:
    core = Core(guarded(), CERT, config_map(), config=ON_HOST)
    before = sent(core, "default/eg/web")

    break_authorities(core)

    assert sent(core, "default/eg/web") == before
    assert listener_needs(core.db, EG_FLEET) == (SECRET,)
    assert [each.ready for each in listeners(core.db, EG)] == [True]


def test_a_bug_in_judging_certificates_opens_nothing() -> None:
    """The former chain asks nobody for a certificate, so it must not stay."""
    core = Core(gateway(https("web", "cert")), CERT, config_map())
    assert "require_client_certificate" not in context(core)
    core.db.put(ref_of("Secret", "default", "cert"), "no Secret: reading it raises")
    assert "require_client_certificate" not in context(core), "nothing is asked, so it may stay"

    core.apply(guarded())
    assert ends_connections(core)

    core.apply(guarded(default=asking(mode="AllowInsecureFallback")))
    assert "require_client_certificate" not in context(core)


def test_what_stands_in_for_a_refused_chain_lets_nobody_pass_unchecked() -> None:
    open_, strict = Core(gateway(https("web", "cert")), CERT), Core(guarded(), CERT, config_map())
    [group] = [each for envoy in envoy_listeners(strict.db, EG_FLEET) for each in envoy.groups]
    former, refused = https_settings(open_.db, group), https_settings(strict.db, group)

    def stands_in(
        refused: ChainSettings, former: ChainSettings, *, strict: bool = True
    ) -> ChainSettings | None:
        silent = unreported(refused)
        assert silent is not None
        assert demands_certificate(silent) == demands_certificate(refused)
        fallback = Fallback(former, strict)
        if strict:
            assert in_force(refused, {refused.version: fallback}) == silent
        return in_force(refused, {refused.version: fallback, silent.version: fallback})

    assert stands_in(refused, former) == closed(refused)
    assert stands_in(refused, former, strict=False) == former, "it is only suspected, and still in force"
    assert stands_in(former, refused) == refused
    assert stands_in(refused, closed(former)) == closed(former)


def shared_port(*others: str) -> Core:
    """A merged fleet: a listener whose CAs are not there, and other Gateways on its port."""
    strict = guarded(https("web", "cert", hostname="a.x.io"))
    core = Core(CERT, strict, *others, extension("EnvoyProxy", "merging", "{mergeGateways: true}"))
    core.apply(gateway_class("merging"))
    return core


def chains_of(core: Core, name: str) -> list[tuple[list[str], bool]]:
    """The chains of a listener: the hostnames of each, and whether it serves somebody."""
    resource = listener(core.db, MERGED, name)
    assert resource is not None
    chains = Listener.FromString(resource.body).filter_chains
    return [
        (list(chain.filter_chain_match.server_names), chain.HasField("transport_socket")) for chain in chains
    ]


def test_a_listener_that_cannot_check_its_clients_keeps_its_hostname_from_wider_ones() -> None:
    again = guarded(https("web", "cert", hostname="a.x.io")).replace("name: eg", "name: again")
    core = shared_port(gateway(https("web", "cert", hostname="*.x.io"), name="wide"), again)

    assert chains_of(core, "default/wide/web") == [(["*.x.io"], True), (["a.x.io"], False)]
    of = concern(core.db, MERGED, "default/wide/web", ALL, shut_form(core))
    assert of is not None
    assert [each.gateway.name for each in of.listeners] == ["again"]

    core.apply(config_map())

    assert (["a.x.io"], True) in chains_of(core, "default/again/web")


def shut_form(core: Core) -> str:
    """The version of the chain that ends connections."""
    *_, part = listener_parts(core.db, MERGED, "default/wide/web")
    [entry] = part.entries
    return entry.settings.version


def test_a_listener_that_cannot_check_its_clients_takes_nothing_from_one_of_its_hostname() -> None:
    core = shared_port(gateway(https("web", "cert", hostname="a.x.io"), name="other"))

    assert chains_of(core, "default/other/web") == [(["a.x.io"], True)]


def test_a_listener_that_cannot_check_its_clients_adds_nothing_to_plaintext() -> None:
    core = shared_port(gateway(http("web", "*.x.io", port=443), name="other"))

    resource = listener(core.db, MERGED, "default/other/web")
    assert resource is not None
    assert not Listener.FromString(resource.body).filter_chains


def test_no_certificate_is_in_the_repr_of_a_secret() -> None:
    core = Core(guarded(), CERT, config_map())

    assert CA.decode().splitlines()[1] not in repr(client_authorities_secret(core.db, SECRET))


NAMED = "caCertificateRefs: [{kind: ConfigMap, name: ours}]"


def clients(validation: str = NAMED, *, name: str = "policy", target: str = "Gateway/eg") -> str:
    """A ClientTrafficPolicy that asks for certificates."""
    return policy(
        "ClientTrafficPolicy", f"{{tls: {{clientValidation: {{{validation}}}}}}}", name=name, target=target
    )


def validation_of(core: Core, name: str = "default/eg/web") -> dict[str, Any]:
    """What the only chain of a listener asks of clients."""
    tls = context(core, name)
    common = {k: v for k, v in tls["common_tls_context"].items() if "validation" in k}
    return {"required": tls.get("require_client_certificate"), **common}


def sds(name: str) -> dict[str, Any]:
    return SOURCE | {"name": name}


@pytest.mark.parametrize(
    ("validation", "expected"),
    [
        (NAMED, {"required": True, "validation_context_sds_secret_config": sds("default/policy/ca.crt")}),
        (
            f"{NAMED}, mode: VerifyIfGiven",
            {"required": False, "validation_context_sds_secret_config": sds("default/policy/ca.crt")},
        ),
        (
            "mode: Request",
            {"required": False, "validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}},
        ),
        (
            f"{NAMED}, mode: Request",
            {
                "required": False,
                "combined_validation_context": {
                    "default_validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"},
                    "validation_context_sds_secret_config": sds("default/policy/ca.crt"),
                },
            },
        ),
        (
            f"{NAMED}, allowExpiredCertificate: true",
            {
                "required": True,
                "combined_validation_context": {
                    "default_validation_context": {"allow_expired_certificate": True},
                    "validation_context_sds_secret_config": sds("default/policy/ca.crt"),
                },
            },
        ),
    ],
)
def test_a_policy_asks_for_certificates_as_in_the_reference(
    validation: str, expected: dict[str, Any]
) -> None:
    core = Core(gateway(https("web", "cert")), CERT, config_map(), clients(validation))

    assert validation_of(core) == expected


def test_a_required_certificate_of_any_authority_needs_one_in_envoy_all_the_same() -> None:
    """Without a CA, Envoy lets clients pass that show no certificate, whatever is required."""
    core = Core(gateway(https("web", "cert")), CERT, clients("mode: RequireAny"))
    validation = validation_of(core)

    assert validation["required"] is True
    assert validation["validation_context"]["trust_chain_verification"] == "ACCEPT_UNTRUSTED"
    assert validation["validation_context"]["trusted_ca"]["inline_bytes"]


def test_a_policy_goes_before_its_gateway() -> None:
    theirs = config_map(ca_crt=OTHER_CA).replace("name: ours", "name: theirs")
    core = Core(guarded(), CERT, config_map(), theirs, clients("mode: Request"))
    secret_of_gateway = validation_of(core)["combined_validation_context"]
    assert secret_of_gateway["validation_context_sds_secret_config"] == SOURCE

    core.apply(clients("caCertificateRefs: [{kind: ConfigMap, name: theirs}]"))

    assert [key.name for key in listener_needs(core.db, EG_FLEET)] == ["default/policy/ca.crt"]
    assert validation_of(core)["required"] is True


def test_a_listener_of_tls_checks_clients_too_and_plaintext_needs_no_secret() -> None:
    tls = "{name: tls, port: 9443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}"
    core = Core(gateway(tls), CERT, config_map(), clients())
    [envoy] = envoy_listeners(core.db, EG_FLEET)
    chain = FilterChain.FromString(connection_terms(core.db, envoy.groups[0]).chain)
    assert tls_of(chain).require_client_certificate.value
    assert [key.name for key in listener_needs(core.db, EG_FLEET)] == ["default/policy/ca.crt"]

    core.apply(gateway(http("plain")))

    assert listener_needs(core.db, EG_FLEET) == ()


@pytest.mark.parametrize(
    "broken",
    [
        "caCertificateRefs: [{name: absent}]",
        "caCertificateRefs: [{kind: ConfigMap, name: ours, namespace: other}]",
        "mode: RequireAndVerify",
        f"{NAMED}, crl: {{refs: [{{name: absent}}]}}",
        f"{NAMED}, spkiHashes: [short]",
    ],
)
def test_what_cannot_be_checked_lets_nobody_pass_the_handshake(broken: str) -> None:
    """Routes answer 500 as well; but Envoy has the listener before the routes."""
    core = Core(gateway(https("web", "cert")), CERT, config_map(), clients(broken))

    asked = validation_of(core)

    assert asked["required"] is True
    assert list(asked["validation_context"]) == ["trusted_ca"], "an authority that signed nothing"
    assert listener_needs(core.db, EG_FLEET) == ()
    assert listener_failed(core.db, ListenerId(EG, EG, "web"))


def test_a_fault_elsewhere_in_the_tls_of_a_policy_lets_nobody_pass_either() -> None:
    spec = f"{{tls: {{ecdhCurves: [nonsense], clientValidation: {{{NAMED}}}}}}}"
    core = Core(
        gateway(https("web", "cert")),
        CERT,
        config_map(),
        policy("ClientTrafficPolicy", spec, target="Gateway/eg"),
    )

    assert list(validation_of(core)["validation_context"]) == ["trusted_ca"]


def test_the_secret_of_a_policy_has_the_lists_of_what_is_revoked() -> None:
    crl = Authority().revoking()
    lists = secret("lists", {"ca.crl": crl}, type_="Opaque")
    validation = f"{NAMED}, crl: {{refs: [{{name: lists}}], onlyVerifyLeafCertificate: true}}"
    core = Core(gateway(https("web", "cert")), CERT, config_map(), lists, clients(validation), config=ON_HOST)
    [key] = listener_needs(core.db, EG_FLEET)
    assert isinstance(key, ClientAuthoritiesSecret)
    before = sent(core, "default/eg/web")

    held = Secret.FromString(client_authorities_secret(core.db, key).body).validation_context

    assert held.trusted_ca.inline_bytes == CA
    assert held.crl.inline_bytes == crl
    assert held.only_verify_leaf_cert_crl
    core.apply(secret("lists", {"ca.crl": Authority().revoking()}, type_="Opaque"))
    assert sent(core, "default/eg/web") != before, "who was revoked must connect again"


def test_authorities_of_a_policy_that_envoy_never_took_close_its_listeners() -> None:
    """A listener that waits for a secret which Envoy refuses would hold up its whole port."""
    core = Core(gateway(https("web", "cert")), CERT, config_map(), clients())
    [key] = listener_needs(core.db, EG_FLEET)
    assert isinstance(key, ClientAuthoritiesSecret)
    contents = client_authorities_contents(core.db, key.of)
    refused = RefusedCertificate(contents, "too odd", None)

    core.db.put(refused_certificate(EG_FLEET, key.of), refused)

    assert list(validation_of(core)["validation_context"]) == ["trusted_ca"]
    assert listener_needs(core.db, EG_FLEET) == ()
    problem = authorities_conflict(core.db, ListenerId(EG, EG, "web"))
    assert problem is not None
    assert problem.path == "spec.tls"
    assert "too odd" in problem.message
    core.apply(config_map(ca_crt=OTHER_CA))
    assert listener_needs(core.db, EG_FLEET) == (key,)


def test_authorities_of_a_policy_stay_in_force_while_envoy_refuses_newer_ones() -> None:
    core = Core(gateway(https("web", "cert")), CERT, config_map(), clients())
    [key] = listener_needs(core.db, EG_FLEET)
    assert isinstance(key, ClientAuthoritiesSecret)
    former = XdsResource.of("", "default/ca.crt", b"former")
    core.apply(config_map(ca_crt=OTHER_CA))
    refused = RefusedCertificate(client_authorities_contents(core.db, key.of), "too odd", former)

    core.db.put(refused_certificate(EG_FLEET, key.of), refused)

    assert listener_needs(core.db, EG_FLEET) == (key,)
    problem = authorities_conflict(core.db, ListenerId(EG, EG, "web"))
    assert problem is not None
    assert problem.message.endswith("clients are checked by those before.")


def test_a_last_good_chain_that_asked_for_other_certificates_does_not_stand_in() -> None:
    world = (gateway(https("web", "cert")), CERT, config_map())
    named = f"{NAMED}, subjectAltNames: {{dnsNames: [{{value: a.test}}]}}"
    any_, strict, other = (Core(*world, clients(v)) for v in ("mode: RequireAny", NAMED, named))
    [group] = [each for envoy in envoy_listeners(strict.db, EG_FLEET) for each in envoy.groups]
    settings = [https_settings(core.db, group) for core in (any_, strict, other)]
    assert [demands_certificate(each) for each in settings] == [False, True, True]
    assert demands_certificate(closed(settings[0])), "nobody passes a closed chain"

    def stands_in(refused: ChainSettings, former: ChainSettings) -> ChainSettings | None:
        silent, fallback = unreported(refused), Fallback(former, True)
        assert silent is not None
        return in_force(refused, {refused.version: fallback, silent.version: fallback})

    assert stands_in(settings[1], settings[0]) == closed(settings[1])
    assert stands_in(settings[2], settings[1]) == closed(settings[2])

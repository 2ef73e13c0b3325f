"""TLS listeners speak what the policy allows, and nobody passes a check that is not made."""

from __future__ import annotations

import subprocess
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.wrappers_pb2 import UInt32Value
from msgspec import convert

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.api.tls import TLSVersion
from moongate.attach.client_validation import ClientAuthorities, ClientValidation, PolicyAuthorities
from moongate.attach.tls_names import TLS_1_3
from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.client_tls import (
    FEATURE,
    ClientTLSSettings,
    Session,
    SessionResumption,
    StatefulTLSSessionResumption,
    StatelessTLSSessionResumption,
    check,
)
from moongate.infra.binary import envoy_binary
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.status.conditions import Condition
from moongate.status.policies import PolicyStatus
from moongate.world import World
from tests.attach.test_client_validation import CERT
from tests.core import GATEWAY_CLASS, ON_HOST, dump, gateway, policy, read
from tests.core import https as listening
from tests.e2e.certificates import Authority
from tests.features.listeners import OWNER, chain_with, https, plain
from tests.tls_names import TAKEN, UNKNOWN

SPKI = "NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A="
HASH = "df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a"


def edited(tls: ClientTLSSettings) -> DownstreamTlsContext:
    context = chain_with(FEATURE, tls, https()).tls
    assert context is not None
    return context


def taken(tls: ClientTLSSettings) -> bool:
    """Whether a real Envoy takes a listener with these settings."""
    pair = Authority().sign("a.test")
    context = edited(tls)
    certificate = context.common_tls_context.tls_certificates.add()
    certificate.certificate_chain.inline_bytes, certificate.private_key.inline_bytes = pair.pem, pair.key
    listener = Listener(name="listener", filter_chains=[FilterChain(name="chain")])
    listener.address.socket_address.address, listener.address.socket_address.port_value = "127.0.0.1", 0
    context.common_tls_context.ClearField("tls_certificate_sds_secret_configs")
    listener.filter_chains[0].transport_socket.name = "tls"
    listener.filter_chains[0].transport_socket.typed_config.Pack(context)
    bootstrap = Bootstrap(static_resources=Bootstrap.StaticResources(listeners=[listener]))
    with NamedTemporaryFile("w", suffix=".json") as file:
        file.write(MessageToJson(bootstrap))
        file.flush()
        command = (str(envoy_binary(None)), "--mode", "validate", "-c", file.name)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def common(tls: ClientTLSSettings) -> CommonTlsContext:
    return edited(tls).common_tls_context


def test_a_policy_that_says_nothing_of_versions_still_pins_them() -> None:
    assert common(ClientTLSSettings()).tls_params == TlsParameters(
        tls_minimum_protocol_version=TlsParameters.TLSv1_2, tls_maximum_protocol_version=TlsParameters.TLSv1_3
    )


@pytest.mark.parametrize(
    ("asked", "version"), [("Auto", "TLS_AUTO"), ("1.0", "TLSv1_0"), ("1.1", "TLSv1_1"), ("1.3", "TLSv1_3")]
)
def test_versions_are_those_that_are_asked_for(asked: TLSVersion, version: str) -> None:
    params = common(ClientTLSSettings(min_version=asked, max_version=asked)).tls_params

    assert params.tls_minimum_protocol_version == TlsParameters.TlsProtocol.Value(version)
    assert params.tls_maximum_protocol_version == TlsParameters.TlsProtocol.Value(version)


def test_ciphers_curves_and_signatures_are_passed_on_in_order() -> None:
    params = common(
        ClientTLSSettings(
            ciphers=("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            ecdh_curves=("X25519", "P-256"),
            signature_algorithms=("rsa_pss_rsae_sha256",),
        )
    ).tls_params

    assert list(params.cipher_suites) == [
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ]
    assert list(params.ecdh_curves) == ["X25519", "P-256"]
    assert list(params.signature_algorithms) == ["rsa_pss_rsae_sha256"]


@pytest.mark.parametrize(
    ("protocols", "offered"), [(None, ["h2", "http/1.1"]), ((), []), (("http/1.1",), ["http/1.1"])]
)
def test_no_list_of_protocols_keeps_the_default_and_an_empty_one_offers_none(
    protocols: tuple[str, ...] | None, offered: list[str]
) -> None:
    assert list(common(ClientTLSSettings(alpn_protocols=protocols)).alpn_protocols) == offered


def test_sessions_are_not_resumed_unless_asked_for() -> None:
    context = edited(ClientTLSSettings())

    assert context.disable_stateless_session_resumption
    assert context.disable_stateful_session_resumption


def test_sessions_may_be_resumed_by_ticket_or_by_id() -> None:
    resumption = SessionResumption(
        stateless=StatelessTLSSessionResumption(), stateful=StatefulTLSSessionResumption()
    )
    context = edited(ClientTLSSettings(session=Session(resumption=resumption)))

    assert context.WhichOneof("session_ticket_keys_type") is None
    assert not context.disable_stateful_session_resumption


def test_fingerprints_bring_the_inspector_that_computes_them() -> None:
    inspector = chain_with(FEATURE, ClientTLSSettings(fingerprints=("JA3",)), https()).inspector

    assert inspector is not None
    assert inspector.enable_ja3_fingerprinting.value
    assert not inspector.HasField("enable_ja4_fingerprinting")


def test_an_inspector_that_is_there_because_of_server_names_computes_fingerprints_too() -> None:
    edit = https()
    edit.inspector = TlsInspector(max_client_hello_size=UInt32Value(value=4096))
    chain_with(FEATURE, ClientTLSSettings(fingerprints=("JA4",)), edit)

    assert edit.inspector.max_client_hello_size.value == 4096
    assert edit.inspector.enable_ja4_fingerprinting.value


def test_a_listener_without_tls_is_left_alone() -> None:
    tls = ClientTLSSettings(min_version="1.3", fingerprints=("JA3",))

    assert chain_with(FEATURE, tls) == plain()


def written(field: str, names: tuple[str, ...]) -> ClientTLSSettings:
    return convert({field: names}, ClientTLSSettings)


@pytest.mark.envoy
def test_envoy_takes_these_names_and_not_those() -> None:
    """A real Envoy says which names there are."""
    assert [(field, names) for field, names in TAKEN if not taken(written(field, names))] == []
    assert [(field, names) for field, names, _ in UNKNOWN if taken(written(field, names))] == []
    assert not taken(ClientTLSSettings(ciphers=TLS_1_3))


def asking(**validation: Any) -> ClientTLSSettings:
    return convert({"clientValidation": validation}, ClientTLSSettings)


def asked(validation: dict[str, Any], of_gateway: ClientValidation | None = None) -> ClientValidation:
    assert FEATURE.clients is not None
    clients = FEATURE.clients(Effective(asking(**validation), OWNER), of_gateway)
    assert clients is not None
    return clients


@pytest.mark.parametrize(
    ("validation", "required", "verified"),
    [
        ({}, True, True),
        ({"optional": False}, True, True),
        ({"optional": True}, False, True),
        ({"optional": True, "mode": "RequireAndVerify"}, True, True),
        ({"mode": "Request"}, False, False),
        ({"mode": "RequireAny"}, True, False),
        ({"mode": "VerifyIfGiven"}, False, True),
    ],
)
def test_a_mode_says_who_must_show_a_certificate_and_of_whom(
    validation: dict[str, Any], required: bool, verified: bool
) -> None:
    clients = asked(validation)

    assert (clients.required, clients.verified) == (required, verified)


def test_what_a_gateway_asks_stays_where_a_policy_does_not_say() -> None:
    of_gateway = ClientValidation(ClientAuthorities(OWNER, "default"), required=True, verified=True)

    assert FEATURE.clients is not None
    assert FEATURE.clients(Effective(ClientTLSSettings(), OWNER), of_gateway) == of_gateway
    assert asked({"mode": "Request"}, of_gateway).authorities == of_gateway.authorities
    assert asked({"caCertificateRefs": [{"name": "ca"}]}, of_gateway).authorities == PolicyAuthorities(
        OWNER, (("clientValidation.caCertificateRefs[0]", Ref.of(Secret, "default", "ca")),)
    )


def test_conditions_are_those_of_envoy() -> None:
    matches = {
        "dnsNames": [{"value": "a.test"}],
        "emailAddresses": [{"type": "Suffix", "value": "@a.test"}],
        "ipAddresses": [{"type": "Prefix", "value": "10."}],
        "uris": [{"type": "RegularExpression", "value": "spiffe://a/.*"}],
        "otherNames": [{"oid": "1.3.6.1", "value": "alice"}],
    }
    validation = {
        "spkiHashes": [SPKI],
        "certificateHashes": [HASH],
        "subjectAltNames": matches,
        "allowExpiredCertificate": True,
    }

    context = CertificateValidationContext.FromString(asked(validation).conditions)

    assert list(context.verify_certificate_spki) == [SPKI]
    assert list(context.verify_certificate_hash) == [HASH]
    assert context.allow_expired_certificate
    assert MessageToDict(context)["matchTypedSubjectAltNames"] == [
        {"sanType": "DNS", "matcher": {"exact": "a.test"}},
        {"sanType": "EMAIL", "matcher": {"suffix": "@a.test"}},
        {"sanType": "IP_ADDRESS", "matcher": {"prefix": "10."}},
        {"sanType": "URI", "matcher": {"safeRegex": {"regex": "spiffe://a/.*"}}},
        {"sanType": "OTHER_NAME", "matcher": {"exact": "alice"}, "oid": "1.3.6.1"},
    ]


@pytest.mark.parametrize(
    ("validation", "path"),
    [
        ({}, "caCertificateRefs"),
        ({"optional": True}, "caCertificateRefs"),
        ({"mode": "VerifyIfGiven"}, "caCertificateRefs"),
        ({"mode": "Request", "spkiHashes": ["abc"]}, "spkiHashes[0]"),
        ({"mode": "Request", "spkiHashes": ["ü"]}, "spkiHashes[0]"),
        ({"mode": "Request", "certificateHashes": ["aa:bb"]}, "certificateHashes[0]"),
        ({"mode": "Request", "subjectAltNames": {"dnsNames": [{"value": "a"}]}}, "subjectAltNames"),
    ],
)
def test_what_envoy_could_not_check_is_refused(validation: dict[str, Any], path: str) -> None:
    [problem] = check(Db(), Effective(asking(**validation), OWNER))

    assert (problem.path, problem.reason) == (f"clientValidation.{path}", "Invalid")


def test_what_envoy_can_check_is_no_fault() -> None:
    pairs = ":".join(HASH[n : n + 2] for n in range(0, len(HASH), 2))
    validation = {
        "mode": "RequireAny",
        "spkiHashes": [SPKI],
        "certificateHashes": [HASH, HASH.upper(), pairs],
    }
    spec = convert({"clientValidation": validation}, ClientTLSSettings)

    assert list(check(Db(), Effective(spec, OWNER))) == []


def test_names_that_envoy_does_not_know_are_faults_beside_what_is_asked_of_clients() -> None:
    spec = convert(
        {"clientValidation": {"mode": "RequireAny", "spkiHashes": ["x"]}, "ciphers": ["NO-SUCH-CIPHER"]},
        ClientTLSSettings,
    )

    paths = [problem.path for problem in check(Db(), Effective(spec, OWNER))]

    assert paths == ["clientValidation.spkiHashes[0]", "ciphers[0]"]


def test_matchers_of_names_are_looked_at_before_envoy_gets_them() -> None:
    matches = {
        "uris": [{"type": "RegularExpression", "value": "("}],
        "otherNames": [{"oid": "1.x", "value": "alice"}],
    }
    validation = {"mode": "Request", "subjectAltNames": matches}

    paths = [problem.path for problem in check(Db(), Effective(asking(**validation), OWNER))]

    assert paths == [
        "clientValidation.subjectAltNames",
        "clientValidation.subjectAltNames.uris[0].value",
        "clientValidation.subjectAltNames.otherNames[0].oid",
    ]


def test_a_condition_that_nobody_looks_at_is_hinted_at() -> None:
    assert FEATURE.hints is not None
    [problem] = FEATURE.hints(asking(mode="RequireAny", certificateHashes=[HASH]))

    assert (problem.path, problem.reason) == ("clientValidation.certificateHashes", "Unused")
    assert not list(FEATURE.hints(asking(certificateHashes=[HASH])))


def test_references_are_to_what_holds_authorities_and_lists() -> None:
    assert FEATURE.references is not None
    trust = {"kind": "ClusterTrustBundle", "name": "roots"}
    lists = {"refs": [{"name": "lists"}, trust]}
    references = list(FEATURE.references(asking(caCertificateRefs=[trust, {"name": "ca"}], crl=lists)))

    assert [(each.path, each.target_from(OWNER).ref.namespace, each.accepted) for each in references] == [
        ("clientValidation.caCertificateRefs[0]", "", True),
        ("clientValidation.caCertificateRefs[1]", "default", True),
        ("clientValidation.crl.refs[0]", "default", True),
        ("clientValidation.crl.refs[1]", "", False),
    ]


@pytest.mark.parametrize("kind", ["Secret", "ConfigMap", "ClusterTrustBundle"])
def test_authorities_are_of_a_kind_whatever_group_is_written(kind: str) -> None:
    """As in the reference. So what is asked of clients is the same."""
    plain, other = (
        asked({"caCertificateRefs": [{"kind": kind, "name": "ca", **group}]})
        for group in ({}, {"group": "example.com"})
    )

    assert plain.authorities is not None
    assert other == plain


def conditions(*documents: str, more: str = "") -> dict[str, Condition]:
    """Those of a policy that asks clients of a listener for certificates of a ConfigMap's CAs, by type."""
    world = World(ON_HOST)
    body = f"{{tls: {{clientValidation: {{caCertificateRefs: [{{kind: ConfigMap, name: ca}}]{more}}}}}}}"
    asks = policy("ClientTrafficPolicy", body, target="Gateway/eg")
    all_ = (GATEWAY_CLASS, gateway(listening("one", "cert")), CERT, asks, *documents)
    world.apply({each.ref: each for text in all_ for each in read(text)})
    world.pull()
    status = world.statuses()[Ref.of(ClientTrafficPolicy, "default", "policy")]
    assert isinstance(status, PolicyStatus)
    assert world.failures() == {}
    return {each.type: each for each in status.ancestors[0].conditions}


def config_map(name: str, data: dict[str, str]) -> str:
    metadata = {"name": name, "namespace": "default"}
    return dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


LISTED = ", crl: {refs: [{kind: ConfigMap, name: lists}]}"


@pytest.mark.parametrize("more", [LISTED, f"{LISTED}, mode: VerifyIfGiven"])
def test_a_list_of_another_authority_is_told(more: str) -> None:
    """Envoy looks for a list of each authority then, and refuses all clients of one without."""
    ours, theirs = Authority("ours"), Authority("theirs")

    of_policy = conditions(
        config_map("ca", {"ca.crt": ours.pem.decode()}),
        config_map("lists", {"ca.crl": theirs.revoking().decode()}),
        more=more,
    )

    assert of_policy["Accepted"].status == "True"
    assert of_policy["Warning"].reason == "NoRevocationList"
    assert of_policy["Warning"].message == (
        "spec.tls.clientValidation.crl: No list of revoked certificates is of CN=ours, so Envoy refuses all "
        "clients whose certificates it has signed. There are lists of CN=theirs, which is no CA of this "
        "policy."
    )


@pytest.mark.parametrize("more", ["", LISTED, f"{LISTED}, mode: RequireAny"])
def test_a_policy_whose_authorities_have_their_lists_or_need_none_has_no_warning(more: str) -> None:
    ours, other = Authority("ours"), Authority("other")
    lists = other if "RequireAny" in more else ours

    of_policy = conditions(
        config_map("ca", {"ca.crt": ours.pem.decode()}),
        config_map("lists", {"ca.crl": lists.revoking().decode()}),
        more=more,
    )

    assert of_policy["Accepted"].status == "True"
    assert "Warning" not in of_policy


def test_authorities_that_envoy_could_not_use_are_a_fault_of_the_policy() -> None:
    """Otherwise its listeners would be closed, and nobody would know why."""
    accepted = conditions(config_map("ca", {"ca.crt": "no certificate"}))["Accepted"]

    assert accepted.status == "False"
    assert accepted.message.startswith("spec.tls.clientValidation.caCertificateRefs[0]: ConfigMap default/ca")

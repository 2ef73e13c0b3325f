"""What the certificate of a backend must be, who decides, and what is shown to it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy, FaultyBackendTLSPolicy
from moongate.api.base import Ref
from moongate.api.core import Secret, Service
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.tls import BackendTLSConfig
from moongate.attach.backend_tls import (
    Authorities,
    Bundle,
    UpstreamTLS,
    Validation,
    authorities,
    authorities_name,
    certificates_named,
    gateway_certificate,
    policy_of,
    upstream_tls,
    validation,
)
from moongate.attach.secret_servers import SDS_SECRET, ServedSecret
from moongate.problem import Problem
from tests import core as made
from tests.core import (
    EG,
    Core,
    certificate,
    dump,
    extension,
    gateway,
    gateway_class,
    http,
    key_bytes,
    load,
    new_key,
    tls_secret,
)

SDS = structs.replace(EnvoyGateway().extension_apis, enable_sds_secret_ref=True)
WITH_SDS = structs.replace(EnvoyGateway(), extension_apis=SDS)
KEY = new_key()
CA = certificate(KEY, common_name="ca")
OTHER_CA = certificate(KEY, common_name="other")
SHOP = Ref.of(Service, "default", "shop")
APP = Ref.of(Backend, "default", "app")
OURS = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ours}]"
BY_OURS = f"{{{OURS}, hostname: shop.internal}}"


def tls_policy(
    name: str = "policy", validation: str = BY_OURS, target: str = "Service/shop", created: str = ""
) -> str:
    """A BackendTLSPolicy of namespace ``default``; a target is ``KIND/NAME`` or ``KIND/NAME/SECTION``."""
    fields = dict(zip(("kind", "name", "sectionName"), target.split("/"), strict=False))
    group = "gateway.envoyproxy.io" if fields["kind"] == "Backend" else ""
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "generation": 2}
    if created:
        metadata["creationTimestamp"] = created
    return dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "BackendTLSPolicy",
            "metadata": metadata,
            "spec": {"targetRefs": [{"group": group, **fields}], "validation": load(validation)},
        }
    )


def config_map(**data: bytes) -> str:
    """The ConfigMap ``ours``; ``_`` in a key is a dot."""
    held = {key.replace("_", "."): value.decode() for key, value in (data or {"ca_crt": CA}).items()}
    return dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}, "data": held})


def backend(tls: str, *, port: int = 443) -> str:
    """Backend ``app``, with ``tls`` in YAML."""
    return extension(
        "Backend", "app", f"{{endpoints: [{{ip: {{address: 1.2.3.4, port: {port}}}}}], tls: {tls}}}"
    )


def of(core: Core, ref: Ref, section: str = "") -> Validation:
    judged = validation(core.db, ref, section)
    assert isinstance(judged, Validation), judged
    return judged


def fault(core: Core, ref: Ref, section: str = "") -> Problem:
    judged = validation(core.db, ref, section)
    assert isinstance(judged, Problem)
    return judged


def policy_ref(name: str = "policy") -> Ref:
    return Ref.of(BackendTLSPolicy, "default", name)


def test_a_backend_without_a_policy_has_no_tls() -> None:
    core = Core(tls_policy(target="Service/another"), config_map())

    assert validation(core.db, SHOP, "http") is None


def test_a_policy_says_who_signs_and_which_name_is_asked_for() -> None:
    core = Core(tls_policy(), config_map())

    assert of(core, SHOP, "http") == Validation(
        Authorities("policy/default-ca", policy_ref()), sni="shop.internal"
    )


def test_the_policy_of_a_port_wins_over_an_older_one_for_the_whole() -> None:
    core = Core(
        tls_policy("whole", created="2025-01-01T00:00:00Z"),
        tls_policy("port", target="Service/shop/http", created="2026-01-01T00:00:00Z"),
    )

    assert policy_of(core.db, SHOP, "http") == policy_ref("port")
    assert policy_of(core.db, SHOP, "grpc") == policy_ref("whole")
    assert policy_of(core.db, SHOP, "") == policy_ref("whole")


def test_of_two_for_the_same_the_oldest_wins_then_the_first_by_name() -> None:
    core = Core(tls_policy("b", created="2025-01-01T00:00:00Z"), tls_policy("a"), tls_policy("c"))

    assert policy_of(core.db, SHOP, "") == policy_ref("a")

    core.delete("BackendTLSPolicy", "default", "a")
    assert policy_of(core.db, SHOP, "") == policy_ref("c")


def test_a_policy_of_another_namespace_concerns_nobody() -> None:
    core = Core(tls_policy())

    assert policy_of(core.db, Ref.of(Service, "other", "shop"), "") is None


@pytest.mark.parametrize(
    ("data", "pem"),
    [
        ({"ca_crt": CA, "tls_crt": b"x"}, CA),
        ({"tls_crt": CA, "other": b"x"}, CA),
        ({"bundle": CA}, CA),
        ({"ca_crt": b"a note\n" + CA + OTHER_CA}, CA + OTHER_CA),
        ({"ca_crt": CA + key_bytes(KEY)}, CA),
    ],
    ids=["ca.crt", "tls.crt", "only-key", "several", "no-private-key"],
)
def test_authorities_are_under_the_keys_of_the_reference(data: dict[str, bytes], pem: bytes) -> None:
    """What stands beside the certificates stays here: a private key is nothing that Envoy would need."""
    core = Core(tls_policy(), config_map(**data))

    assert authorities(core.db, policy_ref()) == Bundle(pem)


def test_authorities_come_from_all_three_kinds_in_order() -> None:
    refs = (
        "[{group: '', kind: Secret, name: a}, {group: certificates.k8s.io, kind: ClusterTrustBundle, name: "
        "'x.io:y'}, {group: '', kind: ConfigMap, name: ours}]"
    )
    bundle = {
        "apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "ClusterTrustBundle",
        "metadata": {"name": "x.io:y"},
        "spec": {"signerName": "x.io/y", "trustBundle": OTHER_CA.decode()},
    }
    core = Core(
        tls_policy(validation=f"{{caCertificateRefs: {refs}, hostname: a.io}}"),
        made.secret("a", {"ca.crt": CA}),
        dump(bundle),
        config_map(),
    )

    assert authorities(core.db, policy_ref()) == Bundle(CA + OTHER_CA + CA)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("", "ConfigMap default/ours does not exist."),
        (config_map(a=CA, b=CA), "has no ca.crt"),
        (config_map(ca_crt=b"nothing"), "holds no certificate in ca.crt"),
        (config_map(ca_crt=key_bytes(KEY)), "holds no certificate in ca.crt"),
        (config_map(ca_crt=CA + CA[:200]), "cut off"),
        (config_map(ca_crt=CA.replace(b"MII", b"AAA")), "is no certificate"),
    ],
    ids=["missing", "keys", "text", "key", "cut", "broken"],
)
def test_authorities_that_cannot_be_used_close_the_backend(manifest: str, words: str) -> None:
    core = Core(tls_policy(), *filter(None, (manifest,)))

    problem = fault(core, SHOP)

    assert problem.reason == "InvalidBackendTLS"
    assert "BackendTLSPolicy default/policy: spec.validation.caCertificateRefs[0]: " in problem.message
    assert words in problem.message
    assert b"MII" not in problem.message.encode()


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ("caCertificateRefs: [{group: '', kind: Service, name: x}]", "InvalidKind"),
        ("wellKnownCACertificates: example.com/mine", "InvalidKind"),
        ("caCertificateRefs: [{group: '', kind: Secret, name: x}]", "InvalidCACertificateRef"),
    ],
)
def test_the_reason_says_whether_the_kind_is_wrong(checks: str, reason: str) -> None:
    core = Core(tls_policy(validation=f"{{{checks}, hostname: a.io}}"))

    problem = authorities(core.db, policy_ref())

    assert isinstance(problem, Problem)
    assert problem.reason == reason


def test_authorities_may_be_those_of_another_server_alone() -> None:
    root = made.secret("a", {"secretName": b"ROOT", "url": b"unix:///run/s"}, type_=SDS_SECRET)
    both = "[{group: '', kind: Secret, name: a}, {group: '', kind: ConfigMap, name: ours}]"
    core = Core(
        tls_policy(validation="{caCertificateRefs: [{group: '', kind: Secret, name: a}], hostname: a.io}"),
        tls_policy("both", f"{{caCertificateRefs: {both}, hostname: a.io}}", "Service/two"),
        root,
        config_map(),
        config=WITH_SDS,
    )

    assert of(core, SHOP).authorities == Authorities("ROOT", policy_ref(), ServedSecret("ROOT", "/run/s"))
    assert "must stand alone" in fault(core, Ref.of(Service, "default", "two")).message


def test_a_certificate_to_show_may_be_that_of_another_server() -> None:
    served = made.secret("c", {"secretName": b"own", "url": b"unix:///run/s"}, type_=SDS_SECRET)
    core = Core(gateway_class("p"), PROXY, gateway(http("a")), served, config=WITH_SDS)

    assert shown(core).server == ServedSecret("own", "/run/s")


def test_those_of_the_system_are_one_secret_unless_each_resource_is_to_have_its_own() -> None:
    manifest = tls_policy(validation="{wellKnownCACertificates: System, hostname: a.io}")
    flags = EnvoyGateway().runtime_flags
    apart = structs.replace(
        EnvoyGateway(), runtime_flags=structs.replace(flags, enabled=("PerResourceSystemCASecret",))
    )

    assert of(Core(manifest), SHOP).authorities == Authorities("system_ca_certificates", None)
    assert of(Core(manifest, config=apart), SHOP).authorities == Authorities(
        "policy/default-ca", policy_ref()
    )


def test_no_two_things_share_a_name_in_xds() -> None:
    """The reference names the CAs of a Backend like those of a policy of its name, and mixes them up."""
    named = extension(
        "Backend", "policy", "{endpoints: [{ip: {address: 1.2.3.4, port: 1}}], tls: {" + OURS + "}}"
    )
    core = Core(named, config_map())
    own = Ref.of(Backend, "default", "policy")
    assert authorities_name(core.db, own) == "policy/default-ca"

    core.apply(tls_policy())
    assert authorities_name(core.db, own) == "policy/default-ca/backend"
    assert authorities_name(core.db, policy_ref()) == "policy/default-ca"

    core.apply(tls_secret("default-ca", "x.io", namespace="policy"))
    assert authorities_name(core.db, policy_ref()) == "policy/default-ca/backendtlspolicy"


def test_a_backend_says_itself_what_its_certificate_must_be() -> None:
    core = Core(backend(f"{{{OURS}, sni: app.internal, minVersion: '1.3'}}"), config_map())

    assert of(core, APP) == Validation(
        Authorities("app/default-ca", APP),
        sni="app.internal",
        settings=BackendTLSConfig(min_version="1.3"),
    )


def test_a_policy_wins_over_the_backend_field_by_field() -> None:
    core = Core(
        backend(f"{{{OURS}, sni: app.internal, maxVersion: '1.2'}}"),
        config_map(),
        tls_policy(
            target="Backend/app",
            validation="{wellKnownCACertificates: System, hostname: other.internal, "
            "subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}, {type: Hostname, hostname: b.io}]}",
        ),
    )

    assert of(core, APP, "443") == Validation(
        Authorities("system_ca_certificates", None),
        sni="other.internal",
        names=(("URI", "spiffe://a/b"), ("Hostname", "b.io")),
        settings=BackendTLSConfig(max_version="1.2"),
    )


def test_a_backend_that_skips_checks_goes_on_doing_so() -> None:
    core = Core(backend("{insecureSkipVerify: true}"), config_map(), tls_policy(target="Backend/app"))

    assert of(core, APP) == Validation(None, sni="shop.internal")


def test_tls_without_authorities_is_closed() -> None:
    core = Core(backend("{}"), config_map(), tls_policy(target="Backend/app/443"))

    assert fault(core, APP).reason == "InvalidBackendTLS"
    assert of(core, APP, "443").authorities == Authorities("policy/default-ca", policy_ref())


def gateway_with(tls: str) -> str:
    return gateway(http("a"), tls=load(tls))


PLAIN = Validation(None)
PROXY = extension(
    "EnvoyProxy", "p", "{backendTLS: {minVersion: '1.1', alpnProtocols: [], clientCertificateRef: {name: c}}}"
)


def shown(core: Core, to: Validation = PLAIN) -> UpstreamTLS:
    tls = upstream_tls(core.db, to, EG)
    assert isinstance(tls, UpstreamTLS), tls
    return tls


def test_the_gateway_shows_its_certificate_instead_of_that_of_its_proxy() -> None:
    """Its settings of TLS go with it, as in the reference."""
    core = Core(gateway_class("p"), PROXY, gateway(http("a")), tls_secret("c", "c"), tls_secret("g", "g"))
    assert shown(core) == UpstreamTLS(
        PLAIN, Ref.of(Secret, "default", "c"), BackendTLSConfig(min_version="1.1", alpn_protocols=())
    )

    core.apply(gateway_with("{backend: {clientCertificateRef: {name: g}}}"))
    assert shown(core) == UpstreamTLS(PLAIN, Ref.of(Secret, "default", "g"), BackendTLSConfig())


def test_a_certificate_of_the_gateway_that_cannot_be_used_is_left_out() -> None:
    """The backend may take requests without one; the status of the Gateway says that there is none."""
    core = Core(gateway_class("p"), PROXY, gateway_with("{backend: {clientCertificateRef: {name: gone}}}"))

    assert shown(core) == UpstreamTLS(PLAIN, None, BackendTLSConfig())
    problem = gateway_certificate(core.db, EG)
    assert isinstance(problem, Problem)
    assert (problem.path, problem.reason) == (
        "spec.tls.backend.clientCertificateRef",
        "InvalidClientCertificateRef",
    )


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("{name: x, kind: ConfigMap}", "InvalidClientCertificateRef"),
        ("{name: x, namespace: other}", "RefNotPermitted"),
        ("{name: half}", "InvalidClientCertificateRef"),
    ],
)
def test_why_the_certificate_of_a_gateway_cannot_be_used(ref: str, reason: str) -> None:
    core = Core(
        gateway_with(f"{{backend: {{clientCertificateRef: {ref}}}}}"),
        made.secret("half", {"tls.crt": certificate(KEY, "x")}),
        tls_secret("x", "x", namespace="other"),
    )

    problem = gateway_certificate(core.db, EG)

    assert isinstance(problem, Problem)
    assert problem.reason == reason


@pytest.mark.parametrize(
    ("ref", "words"),
    [("{name: gone}", "does not exist"), ("{name: c, namespace: other}", "must be in the namespace")],
)
def test_a_certificate_of_the_proxy_that_cannot_be_used_closes_backends(ref: str, words: str) -> None:
    proxy = extension("EnvoyProxy", "p", f"{{backendTLS: {{clientCertificateRef: {ref}}}}}")
    core = Core(gateway_class("p"), proxy, gateway(http("a")), tls_secret("c", "c", namespace="other"))

    problem = upstream_tls(core.db, PLAIN, EG)

    assert isinstance(problem, Problem)
    assert problem.reason == "InvalidBackendTLS"
    assert words in problem.message
    assert "EnvoyProxy default/p: spec.backendTLS.clientCertificateRef" in problem.message


def test_what_a_backend_says_of_tls_wins_over_the_proxy() -> None:
    core = Core(gateway_class("p"), PROXY, gateway(http("a")), tls_secret("c", "c"))
    own = Validation(
        None,
        certificate=Ref.of(Secret, "default", "own"),
        settings=BackendTLSConfig(max_version="1.2", alpn_protocols=("h2",)),
    )

    assert shown(core, own) == UpstreamTLS(
        own,
        own.certificate,
        BackendTLSConfig(min_version="1.1", max_version="1.2", alpn_protocols=("h2",)),
    )


def test_versions_that_leave_nothing_close_the_backend() -> None:
    """Neither resource is at fault alone, so no rule of the API finds it; every handshake would fail."""
    proxy = extension("EnvoyProxy", "p", "{backendTLS: {maxVersion: '1.2'}}")
    core = Core(gateway_class("p"), proxy, gateway(http("a")))

    problem = upstream_tls(core.db, Validation(None, settings=BackendTLSConfig(min_version="1.3")), EG)

    assert isinstance(problem, Problem)
    assert "above the maxVersion" in problem.message


def test_a_cipher_that_envoy_does_not_know_closes_the_backend() -> None:
    """Envoy would refuse the cluster, and name no field."""
    core = Core(gateway(http("a")))

    problem = upstream_tls(core.db, Validation(None, settings=BackendTLSConfig(ciphers=("ROT13",))), EG)

    assert isinstance(problem, Problem)
    assert "ciphers[0]: 'ROT13'" in problem.message


def test_another_certificate_of_an_authority_is_no_news_for_clusters() -> None:
    core = Core(tls_policy(), config_map())
    before = of(core, SHOP)

    core.apply(config_map(ca_crt=OTHER_CA))
    with core.ran() as ran:
        assert of(core, SHOP) is before

    assert "validation" not in ran


def test_a_policy_whose_manifest_has_a_fault_closes_its_backend() -> None:
    """Only its targets are known; its CAs stand for those that cannot be read."""
    [sound] = made.read(tls_policy(validation="{wellKnownCACertificates: System, hostname: a.io}"))
    assert isinstance(sound, BackendTLSPolicy)
    slip = Problem("spec.validation.hostnam", "There is no field 'hostnam' here.")
    core = Core()
    core.put(FaultyBackendTLSPolicy(metadata=sound.metadata, spec=sound.spec, faults=(slip,)))

    problem = fault(core, SHOP)

    assert problem.reason == "InvalidBackendTLS"
    assert "spec.validation.hostnam: There is no field" in problem.message


def test_a_policy_that_names_no_authority_closes_its_backend() -> None:
    """An API server refuses it; what is admitted all the same must not trust those of the system."""
    [sound] = made.read(tls_policy())
    assert isinstance(sound, BackendTLSPolicy)
    none = structs.replace(sound.spec.validation, ca_certificate_refs=())
    core = Core()
    core.put(structs.replace(sound, spec=structs.replace(sound.spec, validation=none)))

    assert fault(core, SHOP).reason == "InvalidBackendTLS"


def test_what_is_named_for_tls_to_backends_is_known_by_its_field() -> None:
    [sound] = made.read(tls_policy())
    refs = "{clientCertificateRef: {name: c}, caCertificateRefs: [{group: '', kind: Secret, name: s}]}"
    [own] = made.read(backend(refs))
    [proxy] = made.read(PROXY)
    [served] = made.read(gateway_with("{backend: {clientCertificateRef: {name: g, namespace: other}}}"))

    named = {
        (path, str(ref)) for each in (sound, own, proxy, served) for path, ref in certificates_named(each)
    }

    assert named == {
        ("spec.validation.caCertificateRefs[0]", "ConfigMap default/ours"),
        ("spec.tls.caCertificateRefs[0]", "Secret default/s"),
        ("spec.tls.clientCertificateRef", "Secret default/c"),
        ("spec.backendTLS.clientCertificateRef", "Secret default/c"),
        ("spec.tls.backend.clientCertificateRef", "Secret other/g"),
    }

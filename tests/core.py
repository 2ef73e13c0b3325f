"""A database with a store, filled from manifests: what queries are tested on, without a World around it."""

from __future__ import annotations

import base64
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from textwrap import dedent
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec import structs

from moongate.api.admission import admit
from moongate.api.base import FleetId, Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.gateway import Gateway
from moongate.attach.gateways import CONFIG
from moongate.engine import Db
from moongate.kinds import KINDS, ref_of
from moongate.policies import POLICY_KINDS
from moongate.store import Store
from moongate.world import INDEXES

ALL_KINDS = {**KINDS, **{(kind.GROUP, kind.KIND): kind for kind in POLICY_KINDS}}

IN_CLUSTER = EnvoyGateway()
ON_HOST = EnvoyGateway.shipped()
WHOLE = structs.replace(ON_HOST, runtime_flags=ON_HOST.runtime_flags.without("ScopedLargeTables"))
"""As shipped, but with one table for a listener, also for hundreds of hostnames."""

GATEWAY_CLASS = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
"""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Core:
    """Cells, indexes and queries, as in a cluster unless a configuration says otherwise."""

    def __init__(self, *manifests: str, config: EnvoyGateway = IN_CLUSTER) -> None:
        self.db = Db()
        self.db.put(CONFIG, config)
        self._store = Store(self.db, INDEXES)
        self.apply(GATEWAY_CLASS, *manifests)

    def apply(self, *manifests: str) -> None:
        """Put what some YAML says in force."""
        batch = {resource.ref: resource for text in manifests for resource in read(text)}
        self._store.apply(self._store.differing(batch))

    def put(self, *resources: Resource) -> None:
        """Put resources in force that no manifest says."""
        self._store.apply(self._store.differing({resource.ref: resource for resource in resources}))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self._store.apply({ref_of(kind, namespace, name): None})

    @contextmanager
    def ran(self) -> Generator[dict[str, int]]:
        """How often each query runs in the block, by name; filled at its end."""
        before, counts = self.db.counts.copy(), dict[str, int]()
        yield counts
        counts.update(self.db.counts - before)


@cache
def read(text: str) -> tuple[Resource, ...]:
    """The resources of a YAML text; many tests have the same, and resources are values."""
    admissions = [
        admit(document, ALL_KINDS, namespace="default")
        for document in yaml.load_all(dedent(text), yaml.CSafeLoader)
    ]
    assert all(each.resource is not None for each in admissions), [each.problems for each in admissions]
    return tuple(each.resource for each in admissions if each.resource is not None)


def load(text: str) -> Any:
    """One YAML document, as plain data."""
    return yaml.load(text, yaml.CSafeLoader)


def dump(document: Any) -> str:
    """A document as YAML text."""
    return yaml.dump(document, Dumper=yaml.CSafeDumper)


def gateway(*listeners: str, name: str = "eg", **spec: Any) -> str:
    """A Gateway in namespace ``default``; each listener is YAML in one line."""
    document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": "default", "generation": 7},
        "spec": {"gatewayClassName": "eg", "listeners": [load(each) for each in listeners], **spec},
    }
    return dump(document)


def listener_set(*listeners: str, name: str = "more", namespace: str = "default", **metadata: Any) -> str:
    """A ListenerSet of the Gateway that ``gateway`` makes; each listener is YAML in one line."""
    document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ListenerSet",
        "metadata": {"name": name, "namespace": namespace, "generation": 3, **metadata},
        "spec": {
            "parentRef": {"name": "eg", "namespace": "default"},
            "listeners": [load(each) for each in listeners],
        },
    }
    return dump(document)


def allowing(which: str, **labels: str) -> dict[str, Any]:
    """``spec.allowedListeners`` of a Gateway."""
    selector = {"selector": {"matchLabels": labels}} if labels else {}
    return {"namespaces": {"from": which, **selector}}


def policy(kind: str, spec: str, *, name: str = "policy", target: str = "HTTPRoute/shop") -> str:
    """A policy in namespace ``default``.

    Args:
        kind: ``SecurityPolicy``.
        spec: its settings, in YAML.
        name: its name.
        target: ``KIND/NAME`` or ``KIND/NAME/SECTION``.
    """
    fields = dict(zip(("kind", "name", "sectionName"), target.split("/"), strict=False))
    targets = [{"group": "gateway.networking.k8s.io", **fields}]
    return extension(kind, name, dump({"targetRefs": targets, **load(spec)}))


def extension(kind: str, name: str, spec: str) -> str:
    """A resource of Envoy Gateway's group in namespace ``default``; ``spec`` is YAML."""
    document = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "generation": 1},
        "spec": load(spec),
    }
    return dump(document)


def gateway_class(proxy: str, *, name: str = "eg") -> str:
    """A GatewayClass whose parameters are an EnvoyProxy of namespace ``default``."""
    parameters = {
        "group": "gateway.envoyproxy.io",
        "kind": "EnvoyProxy",
        "name": proxy,
        "namespace": "default",
    }
    document = load(GATEWAY_CLASS)
    document["metadata"]["name"] = name
    document["spec"]["parametersRef"] = parameters
    return dump(document)


EG = Ref.of(Gateway, "default", "eg")
"""The Gateway that ``gateway`` makes."""
EG_FLEET = FleetId(EG)
"""Its fleet."""


def https(name: str, *secrets: str, hostname: str = "", port: int = 443) -> str:
    """A listener of protocol HTTPS, for ``gateway``."""
    refs = ", ".join(f"{{name: {secret}}}" for secret in secrets)
    host = f"hostname: '{hostname}', " if hostname else ""
    return f"{{name: {name}, port: {port}, protocol: HTTPS, {host}tls: {{certificateRefs: [{refs}]}}}}"


def http(name: str, hostname: str = "", port: int = 80) -> str:
    """A listener of protocol HTTP, for ``gateway``."""
    host = f", hostname: '{hostname}'" if hostname else ""
    return f"{{name: {name}, port: {port}, protocol: HTTP{host}}}"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate(key: Key, *domains: str, common_name: str = "", days: int = 30) -> bytes:
    """A self-signed certificate in PEM, valid from yesterday on."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    made = builder(key, days=days).subject_name(name).issuer_name(name)
    if domains:
        sans = x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains])
        made = made.add_extension(sans, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return made.sign(key, algorithm).public_bytes(Encoding.PEM)


def builder(key: Key, *, days: int = 30) -> x509.CertificateBuilder:
    """A certificate of nobody, valid from yesterday on."""
    now = datetime.now(UTC)  # noqa: TID251 - a certificate has dates
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
    )


def secret(
    name: str, data: Mapping[str, bytes], *, namespace: str = "default", type_: str = "kubernetes.io/tls"
) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": type_,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
    return dump(document)


def tls_secret(name: str, *domains: str, key: Key | None = None, namespace: str = "default") -> str:
    """A Secret with a fresh certificate for some domains."""
    key = key or new_key()
    return secret(
        name, {"tls.crt": certificate(key, *domains), "tls.key": key_bytes(key)}, namespace=namespace
    )

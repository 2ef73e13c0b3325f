"""Nothing that may end up in a log, a status, a terminal or an error message holds what stands in a Secret.

Canaries stand in all places that hold secrets; then all is looked through that a program could show.
"""

from __future__ import annotations

import base64
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import structlog
from rich.pretty import pretty_repr

import moongate
from moongate.api.core import ConfigMap
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.health_checks import HealthCheckPayload
from moongate.attach.extension_filters import DirectResponse
from moongate.cli import main
from moongate.run import Laptop
from moongate.sources.folder import Folder
from moongate.world import World
from tests.attach.test_backend_tls import tls_policy
from tests.cases import PAGES, Case, read
from tests.core import (
    GATEWAY_CLASS,
    certificate,
    dump,
    extension,
    gateway,
    http,
    https,
    key_bytes,
    new_key,
    policy,
)
from tests.routes import http_route, rule, service
from tests.run.conftest import until

KEY = new_key()
DIGEST = base64.b64encode(b"c4n4ry" + bytes(14))
CANARIES = ("c4n4ry", "43434343", "43.4343", DIGEST.decode(), key_bytes(KEY).decode().splitlines()[1])
"""A word, numbers, an entry of an htpasswd file, a line of a private key."""


TLS = "kubernetes.io/tls"


def secret(name: str, **data: Any) -> str:
    return dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, **data})


def based(**data: bytes) -> dict[str, str]:
    return {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()}


def auth(name: str, users: str, route: str) -> str:
    spec = f"basicAuth: {{users: {{name: {users}}}}}"
    return policy("SecurityPolicy", spec, name=name, target=f"HTTPRoute/{route}")


FRONTEND = {
    "frontend": {
        "default": {"validation": {"caCertificateRefs": [{"group": "", "kind": "Secret", "name": "ca"}]}},
        "perPort": [
            {
                "port": 7444,
                "tls": {
                    "validation": {
                        "caCertificateRefs": [{"group": "", "kind": "Secret", "name": "bad-ca"}],
                    }
                },
            }
        ],
    }
}


def injection(name: str) -> str:
    spec = f"{{credentialInjection: {{credential: {{valueRef: {{name: {name}}}}}}}}}"
    return extension("HTTPRouteFilter", name, spec)


def injected(name: str) -> str:
    """A route that gives its backend a credential, by the rule and by the backendRef."""
    ref = f"{{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name}}}"
    filters = f"filters: [{{type: ExtensionRef, extensionRef: {ref}}}]"
    return http_route(rule(filters, f"{{name: shop, port: 80, {filters}}}"), name=name)


HEADER = "headers: [{name: authorization, value: c4n4ry 43434343}]"
COLLECTOR = f"openTelemetry: {{host: otel.test, {HEADER}}}"
REPORTING = extension(
    "EnvoyProxy",
    "reporting",
    f"""
    telemetry:
      accessLog: {{settings: [{{sinks: [{{type: OpenTelemetry, {COLLECTOR}}}]}}]}}
      tracing: {{provider: {{host: otel.test, openTelemetry: {{{HEADER}}}}}}}
      metrics: {{sinks: [{{type: OpenTelemetry, {COLLECTOR}}}]}}
    """,
)
BY_REPORTING = {
    "parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "reporting"}
}

SOUND = "\n---\n".join(
    (
        GATEWAY_CLASS,
        gateway(
            *(https("tls", "cert", port=8443), http("web", port=8080)),
            https("bad", "not-a-key", port=9443),
            infrastructure=BY_REPORTING,
        ),
        REPORTING,
        gateway(https("a", "cert", port=7443), https("b", "cert", port=7444), name="guarded", tls=FRONTEND),
        *(service(), http_route(), http_route(name="other")),
        dump(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "default", "annotations": {"last-applied-configuration": "c4n4ry"}},
            }
        ),
        secret("cert", type=TLS, data=based(tls_crt=certificate(KEY, "a.example"), tls_key=key_bytes(KEY))),
        secret("not-a-key", type=TLS, data=based(tls_crt=certificate(KEY, "a.example"), tls_key=b"c4n4ry")),
        secret("users", data={".htpasswd": base64.b64encode(b"alice:{SHA}" + DIGEST).decode()}),
        secret("bad-users", stringData={".htpasswd": "alice:c4n4ry\nc4n4ry"}),
        secret("token", stringData={"credential": "Bearer c4n4ry"}),
        secret("bad-token", stringData={"credential": "c4n4ry\n"}),
        *(injection(name) for name in ("token", "bad-token")),
        *(injected(name) for name in ("token", "bad-token")),
        auth("auth", "users", "shop"),
        auth("bad-auth", "bad-users", "other"),
        tls_policy(validation="{caCertificateRefs: [{group: '', kind: Secret, name: ca}], hostname: a.io}"),
        tls_policy(
            "bad",
            "{caCertificateRefs: [{group: '', kind: Secret, name: bad-ca}], hostname: a.io}",
            "Service/x",
        ),
        secret("ca", data=based(ca_crt=b"c4n4ry\n" + certificate(KEY, common_name="ca") + key_bytes(KEY))),
        secret(
            "bad-ca", data=based(ca_crt=b"-----BEGIN CERTIFICATE-----\nc4n4ry\n-----END CERTIFICATE-----\n")
        ),
    )
)
FAULTY = (
    secret("a", data={"key": "c4n4ry!"}),
    secret("b", data=["c4n4ry"]),
    secret("c", data="c4n4ry"),
    secret("d", stringData={"key": ["c4n4ry"]}),
    secret("f", type=["c4n4ry"], data={"key": 1}),
    secret("g", data={"key": "c4n4ry"}, immutable="c4n4ry"),
    dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "A B"}, "data": "c4n4ry"}),
    dump({"apiVersion": "v1", "kind": "Secret", "metadata": "c4n4ry", "data": {"key": "c4n4ry"}}),
    dump({"apiVersion": "v1", "kind": "List", "items": ["c4n4ry", {"c4n4ry": 1}]}),
    # Whatever is wrong with a value, and in whatever document a password may stand.
    secret("j", stringData={"key": 43434343, "other": 43.434343}),
    secret("k", stringData={"key": {"c4n4ry": ["c4n4ry"]}}),
    secret("l", type=43434343),
    secret("m", stringData="c4n4ry"),
    secret("n", stringData=["c4n4ry"]),
    secret("o", dta={"key": "c4n4ry"}),
    secret("p", metadata={"name": "p", "annotations": {"token": 43434343}}),
    secret("q", metadata={"name": "q", "annotations": "c4n4ry"}),
    secret("r", metadata={"name": "r", "labels": ["c4n4ry"]}),
    secret("s", metadata={"name": "s", "annotation": {"token": "c4n4ry"}}),
    secret("t", kind="Secrt", stringData={"key": 43434343}),
    secret("u", apiVersion="v2", stringData={"key": 43434343}),
    secret("v", kind="ConfigMap", data={"password": 43434343}),
    secret("w", kind="ConfigMap", binaryData={"password": "c4n4ry!"}),
    dump({"kind": "List", "items": [{"data": {"key": "c4n4ry!"}, "kind": "Secret", "metadata": {}}]}),
    "data: {key: 'c4n4ry!'}\nkind: Secret\napiVersion: v1\nmetadata: {name: x}",
    policy("SecurityPolicy", "basicAuth: {users: 'alice:c4n4ry'}"),
    policy("SecurityPolicy", "basicAuth: {users: {name: a, password: c4n4ry}}"),
    policy("SecurityPolicy", "basicAuth: 'alice:c4n4ry'"),
    policy("SecurityPolicy", "basicAuth: ['alice:c4n4ry']"),
    gateway("{name: s, port: 443, protocol: HTTPS, tls: c4n4ry}"),
    gateway("{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: c4n4ry}}"),
    gateway("{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [c4n4ry]}}"),
    secret("ab", metadata={"name": "ab", "creationTimestamp": "c4n4ry"}),
    "apiVersion: v1\nkind: Secret\nmetadata: {name: y}\ndata: {key: !!binary c4n4ry!}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: z}\ndata: {key: !!!!c4n4ry}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: z}\ndata: {key: !!int c4n4ry, key: !!int c4n4ry}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: z}\ndata: {<<: c4n4ry}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: z}\ndata: {? [c4n4ry] : a}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: z}\ndata:\n  key: c4n\x01ary",
    "alice:{SHA}c4n4ry",
    "!c4n4ry",
    "- !c4n4ry [a]",
    "{a: !c4n4ry {b: c}}",
    "-----BEGIN PRIVATE KEY-----\nc4n4ry\n-----END PRIVATE KEY-----",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata: {key: *c4n4ry}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata: {key: &c4n4ry a, other: *c4n4r}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata: {key: %c4n4ry}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata: {key: 'c4n4ry'c4n4ry}",
    'apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata: {key: "\\c4n4ry"}',
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata:\n  key: c4n4ry: a",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata:\n  key=c4n4ry\n  other: a",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: h}\ndata: {key: 'c4n4ry}",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: i}\nstringData:\n  key: {{ c4n4ry }}",
)
"""Documents that are refused, each for another reason."""


def assert_secret(*shown: object) -> None:
    for each in shown:
        text = each if isinstance(each, str) else f"{each!r} {pretty_repr(each)}"
        assert [canary for canary in CANARIES if canary in text] == [], text[:2000]


def values(world: World) -> Iterator[object]:
    """The values of all queries and cells but bare bytes and tuples of them, which nobody shows."""
    db: Any = world.db
    for nodes in (db._cells, *db._memos.values()):
        yield from nodes.values()
        yield from (node.value for node in nodes.values() if not _is_bytes(node.value))


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, tuple) and all(map(_is_bytes, value)))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


@pytest.mark.parametrize("config", [EnvoyGateway.shipped(), EnvoyGateway()], ids=["shipped", "reference"])
def test_nothing_in_a_world_shows_a_secret(config: EnvoyGateway) -> None:
    """No resource, no change, no resource of xDS, no status, no value of any query."""
    folder = Folder()
    batch = folder.update("all.yaml", SOUND)
    world = World(config)
    world.apply(batch)
    changes = world.pull()

    assert any(CANARIES[-1].encode() in r.body for put in changes.put.values() for r in put), "they are sent"
    assert_secret(batch, changes, world.xds(), world.statuses(), [*world.problems()], folder.diagnostics())
    assert_secret(*values(world))


def test_no_fault_of_a_manifest_quotes_a_secret() -> None:
    for text in FAULTY:
        folder = Folder()
        folder.update("secret.yaml", text)

        assert folder.diagnostics(), text
        assert_secret(folder.diagnostics(), *map(str, folder.diagnostics()))


@pytest.mark.parametrize(
    "value",
    [
        "c4n4ry",
        "'c4n4ry'",
        r'"\\ud800c4n4ry"',
        '"c4n4ry',
        r'"c4n4ry\q"',
        '"a" "c4n4ry"',
        '"!c4n4ry"',
        "43434343",
    ],
)
def test_no_fault_of_json_quotes_a_secret(value: str) -> None:
    whole = (
        f'{{"apiVersion": "v1", "kind": "Secret", "metadata": {{"name": "a"}}, "data": {{"key": {value}}}}}'
    )
    for name, text in (("a.json", whole), ("a.yaml", whole), ("a.json", whole[:-2]), ("a.yaml", whole[:-2])):
        folder = Folder()
        folder.update(name, text)

        assert folder.diagnostics(), text
        assert_secret(folder.diagnostics(), *map(str, folder.diagnostics()))


def test_commands_show_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifests = tmp_path / "all.yaml"
    manifests.write_text("\n---\n".join((SOUND, *FAULTY[:-2])))
    for command in (["translate"], ["translate", "--output", "json"], ["validate"]):
        main([*command, str(manifests)])

        shown = capsys.readouterr()
        assert_secret(shown.out, shown.err)
        assert shown.out + shown.err


def test_a_translation_shows_no_secret_but_in_its_messages() -> None:
    translation = moongate.translate(msgspec.yaml.decode(text) for text in SOUND.split("\n---\n"))

    assert_secret([*translation.status], [*translation.problems])


@pytest.mark.slow
async def test_a_run_logs_and_reports_no_secret() -> None:
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as folder, structlog.testing.capture_logs() as events:
        async with Laptop(run_dir=Path(folder), envoy=Path("/bin/true")) as running:
            running.take_text("all", "\n---\n".join((SOUND, *FAULTY[:-2])))
            await until(lambda: len(running.statuses.documents()) > 4)
            report = b"".join(running.status.encoded(await running.limits())).decode()

    assert "other" in report
    assert report.count('"value":"[redacted]"') == 3, "the headers of reports"
    assert_secret(report, events)


def kept(case: Case) -> set[str]:
    """Each line that the Secrets of a page's section hold, and their values as protobuf's JSON has bytes.

    Certificates are for everybody.
    """
    secrets = [document for document in case.documents() if document["kind"] == "Secret"]
    values = [value for document in secrets for value in document.get("stringData", {}).values()]
    values += [
        base64.b64decode(v).decode() for document in secrets for v in document.get("data", {}).values()
    ]
    values = [value for value in values if not value.startswith("-----BEGIN CERTIFICATE")]
    lines = {line for value in values for line in value.splitlines()}
    return lines | {base64.b64encode(value.encode()).decode() for value in values}


WITH_SECRETS = [case for page in PAGES for case in read(page) if kept(case)]


@pytest.mark.parametrize("case", WITH_SECRETS, ids=lambda case: case.id)
def test_no_feature_shows_what_its_secrets_hold(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A feature that reads Secrets is looked at by its page, without anybody having to think of it."""
    text = "\n---\n".join(map(dump, case.documents()))
    folder = Folder()
    batch = folder.update("all.yaml", text)
    world = World(EnvoyGateway.shipped())
    world.apply(batch)
    manifests = tmp_path / "all.yaml"
    manifests.write_text(text)
    main(["translate", str(manifests)])

    printed = capsys.readouterr()
    shown = [batch, world.pull(), world.xds(), world.statuses(), *world.problems(), *values(world)]
    texts = [printed.out, printed.err, *(f"{each!r} {pretty_repr(each)}" for each in shown)]
    assert printed.out
    assert [secret for secret in kept(case) for text in texts if secret in text] == []


PUBLIC = {
    ConfigMap,  # for what everybody may read
    DirectResponse,  # an answer to everybody
    HealthCheckPayload,  # what a health check sends, in the clear of a policy
}


def test_a_value_with_bytes_shows_their_size_alone() -> None:
    """All Structs with a field of bytes have a repr of their own; in bytes are messages, in these secrets."""
    for module in pkgutil.walk_packages(moongate.__path__, "moongate."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    plain = {
        cls
        for cls in structs(msgspec.Struct)
        if cls.__module__.startswith("moongate.") and cls.__repr__ is msgspec.Struct.__repr__
        if any("bytes" in str(annotation) for annotation in cls.__annotations__.values())
    }

    assert plain == PUBLIC


def structs(cls: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for each in cls.__subclasses__():
        yield each
        yield from structs(each)

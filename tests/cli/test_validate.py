from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moongate.cli.manifests import translated
from moongate.cli.validate import checked_by_envoy
from tests.campaign import cold
from tests.campaign.fault import swap
from tests.campaign.healthy import FILES
from tests.cli.conftest import ONLY_ENVOY_REFUSES, SHOP, Command, line_of
from tests.core import GATEWAY_CLASS, certificate, gateway, https, key_bytes, new_key, secret
from tests.unbuilt import PROTECTIONS


def test_sound_manifests_are_said_to_be_sound(command: Command, shop: Path) -> None:
    assert command("validate", shop) == (0, "5 resources: nothing is wrong.\n", "")


def test_each_diagnostic_has_its_place_and_severity(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(SHOP.replace("parentRefs", "parentRef"))
    line = line_of(SHOP, "  parentRefs:")

    ended = command("validate", tmp_path)

    diagnostic, summary = ended.out.splitlines()
    assert ended.code == 1
    assert diagnostic.startswith(
        f"{tmp_path}/shop.yaml:{line}:3: error: HTTPRoute default/shop: spec.parentRef: "
    )
    assert summary == "4 resources: 1 error, 0 warnings."


def test_warnings_alone_are_no_failure(command: Command, tmp_path: Path) -> None:
    """Two routes for the same requests are seldom meant, but allowed."""
    twin = SHOP[SHOP.rindex("apiVersion") :].replace("name: shop, namespace", "name: twin, namespace")
    (tmp_path / "shop.yaml").write_text(f"{SHOP}---\n{twin}")

    ended = command("validate", tmp_path)

    assert ended.code == 0
    assert ended.out.endswith("6 resources: 0 errors, 2 warnings.\n")


def test_fields_that_are_not_built_are_reported_once_each_at_its_place(
    command: Command, tmp_path: Path
) -> None:
    """The manifest and the status both know of them; also where manifests come in a list."""
    first, second = PROTECTIONS[:2]
    policy: dict[str, Any] = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "SecurityPolicy",
        "metadata": {"name": "closed"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "shop"}],
            first: {},
            second: {},
        },
    }
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": [policy]})
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "list.json").write_text(items)

    ended = command("validate", tmp_path)

    *lines, total = ended.out.splitlines()
    places = [
        f"{tmp_path}/list.json:1:{items.index(name) + len(name) + 4}: error: " for name in (first, second)
    ]
    assert [line.startswith(place) for line, place in zip(lines, places, strict=True)] == [True, True]
    assert total == "6 resources: 2 errors, 0 warnings."


def test_what_is_wrong_in_an_envoy_proxy_is_said_once_in_its_file(command: Command, tmp_path: Path) -> None:
    """It is a condition of all Gateways that it is for, and the field is in none of their files."""
    gateway = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s}
spec:
  gatewayClassName: moongate
  infrastructure: {parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: logs}}
  listeners: [{name: http, port: %s, protocol: HTTP}]
"""
    proxy = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: logs}
spec:
  telemetry:
    accessLog:
      settings:
      - matches: ["response.code >="]
        sinks: [{type: File, file: {path: /dev/stdout}}]
"""
    for name, port in (("one", 8081), ("two", 8082)):
        (tmp_path / f"{name}.yaml").write_text(gateway % (name, port))
    (tmp_path / "proxy.yaml").write_text(proxy)

    ended = command("validate", tmp_path)

    diagnostic, summary = ended.out.splitlines()
    assert diagnostic == (
        f"{tmp_path}/proxy.yaml:8:19: error: EnvoyProxy default/logs: "
        "spec.telemetry.accessLog.settings[0].matches[0]: 'response.code >=' is no CEL expression. "
        "Requests are served, but not logged by this setting."
    )
    assert summary == "3 resources: 1 error, 0 warnings."


def test_a_port_of_an_older_gateway_is_an_error_at_the_later_one(command: Command, tmp_path: Path) -> None:
    """A CI job must know it before Envoys are asked. Gateways on addresses of their own share a port."""
    gateway = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s}
spec:
  gatewayClassName: moongate
  addresses: [{value: %s}]
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
"""
    (tmp_path / "one.yaml").write_text(gateway % ("one", "127.0.0.1"))
    (tmp_path / "two.yaml").write_text(gateway % ("two", "127.0.0.1"))
    (tmp_path / "three.yaml").write_text(gateway % ("z", "127.0.0.2"))

    ended = command("validate", tmp_path)

    *lines, total = ended.out.splitlines()
    assert [line for line in lines if not line.startswith(f"{tmp_path}/two.yaml")] == []
    assert lines[-1].startswith(
        f"{tmp_path}/two.yaml:8:7: error: Gateway default/two: spec.listeners[0]: Port 8080 of this machine "
        "belongs to listener http of Gateway default/one, which comes first"
    )
    assert ended.code == 1
    assert total.startswith("3 resources: ")


def test_a_policy_whose_selectors_match_nothing_is_a_warning(command: Command, tmp_path: Path) -> None:
    policy = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: browsers}
spec:
  targetSelectors: [{kind: HTTPRoute, matchLabels: {tier: web}}]
  cors: {allowOrigins: ["https://example.com"]}
"""
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "policy.yaml").write_text(policy)

    ended = command("validate", tmp_path)

    assert ended.code == 0
    first, total = ended.out.splitlines()
    assert first.startswith(f"{tmp_path}/policy.yaml:5:20: warning: SecurityPolicy default/browsers: ")
    assert "No HTTPRoute that is served here matches" in first
    assert "ReferenceGrant" not in first
    assert total == "6 resources: 0 errors, 1 warning."

    elsewhere = policy.replace("kind: HTTPRoute,", "kind: HTTPRoute, namespaces: {from: All},")
    (tmp_path / "policy.yaml").write_text(elsewhere)

    assert "only if a ReferenceGrant there allows it" in command("validate", tmp_path).out


def test_what_a_gateway_has_no_use_for_is_counted(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        f"{SHOP}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: shop}}\n"
    )

    assert (
        command("validate", tmp_path).out
        == "5 resources, 1 document ignored (Deployment): nothing is wrong.\n"
    )


def test_what_envoy_judges_is_translated_once(tmp_path: Path, shop: Path) -> None:
    """A dry run of thousands of routes costs what a translation costs, and Envoy's time."""
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\necho 'envoy  version: 0/1.40.0/Clean/RELEASE/BoringSSL'\n")
    envoy.chmod(0o700)
    translation = translated([str(shop)], config=None, namespace="default", traceable=True)
    with translation.world.ran() as ran:
        judged = checked_by_envoy(translation, envoy)

    assert judged == ([], " Envoy 1.40.0 accepts all of it.")
    assert ran.counts() == {}


@pytest.mark.envoy
@pytest.mark.slow
def test_envoy_takes_what_it_can_serve(command: Command, shop: Path) -> None:
    ended = command("validate", shop, "--envoy")

    assert ended.code == 0
    assert ended.out.startswith("5 resources: nothing is wrong. Envoy 1.")
    assert ended.out.endswith(" accepts all of it.\n")


@pytest.mark.envoy
@pytest.mark.slow
def test_what_only_envoy_refuses_is_reported_at_the_rule_it_comes_from(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "refused.yaml").write_text(ONLY_ENVOY_REFUSES)

    assert command("validate", tmp_path).code == 0
    ended = command("validate", tmp_path, "--envoy")

    diagnostic, _ = ended.out.splitlines()
    assert ended.code == 1
    assert diagnostic.startswith(
        f"{tmp_path}/refused.yaml:9:5: error: HTTPRoute default/refused: spec.rules[1]: "
    )
    assert "'httproute/default/refused/rule/1/match/0/refused_example_com'" in diagnostic
    assert "NOSUCH" in diagnostic


@pytest.mark.envoy
@pytest.mark.slow
def test_settings_that_only_envoy_refuses_are_reported_at_their_policy(
    command: Command, tmp_path: Path
) -> None:
    """The listener itself is as its author wants it."""
    files = {**FILES, **swap("clients.yaml", ('minVersion: "1.2"', 'ciphers: ["!AES128-SHA"]'))}
    cold.write(tmp_path, files, cold.values())

    ended = command("validate", tmp_path, "--envoy")

    assert ended.out.startswith(f"{tmp_path}/clients.yaml:4:1: error: ClientTrafficPolicy default/clients: ")
    assert "!AES128-SHA" in ended.out


def test_another_envoy_must_be_one(command: Command, shop: Path) -> None:
    ended = command("validate", shop, "--envoy=/bin/true")

    assert ended.code == 1
    assert ended.err.startswith("moongate: /bin/true ")
    assert ended.err.count("\n") == 1


def diagnostics(command: Command, folder: Path, text: str) -> list[str]:
    """What is said of manifests, without the folder's name and the summary."""
    (folder / "shop.yaml").write_text(text)
    lines = command("validate", folder).out.splitlines()
    return [line.removeprefix(f"{folder}/shop.yaml:") for line in lines[:-1]]


BACKEND = """
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: cart}
spec:
  endpoints:
  - ip: {address: 127.0.0.1, port: 3000}
---
apiVersion: v1
kind: Service
metadata: {name: till}
spec: {ports: [{port: 80}]}
"""
TO_SHOP = "- {name: shop, port: 80}"
TO_CART = "- {group: gateway.envoyproxy.io, kind: Backend, name: cart}"
LINE = line_of(SHOP, f"    {TO_SHOP}")


@pytest.mark.parametrize(
    ("reference", "column", "expected"),
    [
        (
            "- {name: shpo, port: 80}",
            14,
            (
                "error: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
                "There is no Service default/shpo. Did you mean 'shop'? "
                "Requests are answered with 500."
            ),
        ),
        (
            "- {group: gateway.envoyproxy.io, kind: Backend, name: crat}",
            59,
            (
                "error: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
                "There is no Backend default/crat. Did you mean 'cart'? "
                "Requests are answered with 500."
            ),
        ),
        (
            "- {name: cart, port: 80}",
            14,
            (
                "error: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
                "There is no Service default/cart. Did you mean the Backend of this name? "
                "Then say group: gateway.envoyproxy.io and kind: Backend. Requests are answered with 500."
            ),
        ),
        (
            "- {name: elsewhere, port: 80}",
            14,
            (
                "error: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
                "There is no Service default/elsewhere. Without a cluster, a Service and its EndpointSlice "
                "are manifests, too; or use a Backend (gateway.envoyproxy.io) with an ip or fqdn endpoint. "
                "Requests are answered with 500."
            ),
        ),
        (
            "- {name: shop, port: 81}",
            7,
            (
                "error: HTTPRoute default/shop: spec.rules[0].backendRefs[0]: "
                "Service default/shop has no TCP port 81; it has 80. Requests are answered with 500."
            ),
        ),
        (
            "- {name: till, port: 80}",
            14,
            (
                "warning: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
                "Service default/till has no endpoints: add an EndpointSlice with the label "
                "kubernetes.io/service-name: till, or use a Backend (gateway.envoyproxy.io) with an ip or "
                "fqdn endpoint. Requests are answered with 503."
            ),
        ),
    ],
)
def test_a_backend_that_cannot_be_used_is_reported_where_it_is_named(
    command: Command, tmp_path: Path, reference: str, column: int, expected: str
) -> None:
    """A route names many; its parentRefs, whose status says so, are the wrong place to look."""
    lines = diagnostics(command, tmp_path, SHOP.replace(TO_SHOP, reference) + BACKEND)

    assert lines == [f"{LINE}:{column}: {expected}"]


@pytest.mark.parametrize(
    ("backend_refs", "at"),
    [
        (TO_CART, "backendRefs[0]"),
        (
            (
                f"{TO_SHOP}\n    filters:\n    - type: RequestMirror\n"
                f"      requestMirror: {{backendRef: {TO_CART[2:]}}}"
            ),
            "filters[0].requestMirror.backendRef",
        ),
    ],
    ids=["a backendRef", "a mirror"],
)
def test_a_fault_of_a_backend_is_reported_at_its_field_and_where_the_backend_is_named(
    command: Command, tmp_path: Path, backend_refs: str, at: str
) -> None:
    """The field belongs to the Backend, so the route names the Backend with it."""
    name = BACKEND.replace("ip: {address: 127.0.0.1", "fqdn: {hostname: 127.0.0.1")

    of_route, of_backend = diagnostics(command, tmp_path, SHOP.replace(TO_SHOP, backend_refs) + name)

    fault = "spec.endpoints[0].fqdn: '127.0.0.1' is an IP address; put it under ip."
    assert f"spec.rules[0].{at}: Backend default/cart cannot be used: {fault}" in of_route
    assert of_backend.endswith(f"error: Backend default/cart: {fault}")


def test_what_is_written_with_an_error_is_not_said_to_be_missing(command: Command, tmp_path: Path) -> None:
    """Who reads "there is no such Backend" looks for a misspelt name, and finds none."""
    text = SHOP.replace(TO_SHOP, TO_CART) + BACKEND.replace("127.0.0.1", "localhost")
    at = line_of(text, "metadata: {name: cart}")

    route, backend = diagnostics(command, tmp_path, text)

    assert route == (
        f"{LINE}:59: warning: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
        f"Backend default/cart is not in force: it is written at {tmp_path}/shop.yaml:{at}:18, "
        "with an error. Requests are answered with 500."
    )
    assert " Backend default/cart: spec.endpoints[0].ip.address: The value is 'localhost'; " in backend


def test_a_certificate_is_reported_where_it_is_named(command: Command, tmp_path: Path) -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: web}\nstringData: {a: b}\n"
    listener = (
        "  - {name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: wbe}, {name: web}]}}"
    )
    text = SHOP.replace("  listeners:", f"  listeners:\n{listener}")
    line = line_of(text, listener)

    missing, unfit = diagnostics(command, tmp_path, f"{text}\n{secret}")

    assert missing.startswith(f"{line}:")
    assert missing.endswith(
        "tls.certificateRefs[0].name: There is no Secret default/wbe. Did you mean 'web'? "
        "The listener serves nothing until this is fixed."
    )
    assert unfit.startswith(f"{line}:")
    assert ": spec.listeners[0].tls.certificateRefs[1]: Secret default/web " in unfit


def test_a_listener_that_is_not_served_is_reported_with_the_reason(command: Command, tmp_path: Path) -> None:
    """Not served; the other conditions say why, so they are what has to be shown."""
    twins = "  listeners:\n  - {name: one, port: 9090, protocol: TCP}\n"
    text = SHOP.replace("  listeners:", f"{twins}  - {{name: two, port: 9090, protocol: HTTP}}")

    lines = diagnostics(command, tmp_path, text)

    assert not [line for line in lines if "the other conditions" in line]
    assert any("Port 9090 is asked for with protocols that exclude each other" in line for line in lines)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (
            "protocol: HTTP",
            "protocol: https",
            "Protocol https is not served; it must be HTTP, HTTPS, TLS, TCP or UDP. Did you mean 'HTTPS'?",
        ),
        (
            "protocol: HTTP",
            "protocol: https",
            "The listeners that are meant (http) have a protocol that is not served: 'https'.",
        ),
        (
            "- name: gateway\n",
            "- name: gateway\n    sectionName: htpp\n",
            "The Gateway has no listener of name 'htpp'; it has http (port 8080). Did you mean 'http'?",
        ),
    ],
)
def test_a_name_that_is_nearly_right_is_asked_for(
    command: Command, tmp_path: Path, right: str, wrong: str, expected: str
) -> None:
    assert right in SHOP

    assert any(expected in line for line in diagnostics(command, tmp_path, SHOP.replace(right, wrong)))


def test_a_certificate_that_has_expired_is_reported_as_a_run_would(command: Command, tmp_path: Path) -> None:
    """The listener would not be served: whoever validates wants to know before."""
    key = new_key()
    data = {"tls.crt": certificate(key, "a.test", days=-1), "tls.key": key_bytes(key)}
    (tmp_path / "gateway.yaml").write_text(
        "\n---\n".join((GATEWAY_CLASS, gateway(https("tls", "old")), secret("old", data)))
    )

    ended = command("validate", tmp_path)

    assert ended.code == 1
    assert "has expired; it must be renewed. The listener serves nothing until this is fixed." in ended.out


NO_CLASS = SHOP.replace("gatewayClassName: moongate", "gatewayClassName: moongat")
NO_PARENT = SHOP.replace("- name: gateway\n", "- name: gatewya\n")
POLICY = """\
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: retries}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shpo}]
  retry: {numRetries: 3}
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NO_CLASS, "There is no GatewayClass moongat. Did you mean 'moongate'? This Gateway is not served."),
        (
            NO_PARENT,
            (
                "There is no Gateway default/gatewya. Did you mean 'gateway'? "
                "No request gets to this route through it."
            ),
        ),
        (
            SHOP + POLICY,
            "There is no HTTPRoute default/shpo. Did you mean 'shop'? This policy has no effect there.",
        ),
    ],
    ids=["class", "parent", "target"],
)
def test_what_leads_nowhere_is_an_error(command: Command, tmp_path: Path, text: str, words: str) -> None:
    """Nothing of it would be in force, and a CI job must not pass."""
    assert text != SHOP
    (tmp_path / "shop.yaml").write_text(text)

    ended = command("validate", tmp_path)

    assert ended.code == 1
    assert [line.endswith(words) for line in ended.out.splitlines() if ": error: " in line] == [True]


def test_a_gateway_of_another_controller_is_no_error(command: Command, tmp_path: Path) -> None:
    """Manifests for several controllers may be in one folder."""
    other = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other}
spec: {gatewayClassName: other, listeners: [{name: a, port: 80, protocol: HTTP}]}
"""
    (tmp_path / "shop.yaml").write_text(SHOP + other)

    assert command("validate", tmp_path).code == 0


def test_one_mistake_is_one_error(command: Command, tmp_path: Path) -> None:
    """A reference to a faulty resource is a warning, so that the number of errors is that of mistakes."""
    (tmp_path / "shop.yaml").write_text(
        SHOP.replace("parentRefs", "parentRef") + POLICY.replace("shpo", "shop")
    )

    ended = command("validate", tmp_path)

    assert ended.out.endswith("5 resources: 1 error, 1 warning.\n")


@pytest.mark.parametrize("text", ["", " \n", "# nothing\n", "---\n", "\ufeff---\r\n---\r\n# a\r\n", "...\n"])
def test_standard_input_without_a_manifest_is_an_error(command: Command, shop: Path, text: str) -> None:
    """The program before the pipe failed, and only its exit code, which a shell drops, says so."""
    message = "Standard input holds no manifest. Perhaps the program that was to write some failed."

    for paths, resources in (("-",), 0), (("-", shop), 5):
        ended = command("validate", *paths, stdin=text)

        assert ended.code == 1
        assert ended.out == f"<stdin>: error: {message}\n{resources} resources: 1 error, 0 warnings.\n"
    assert command("translate", "-", stdin=text).code == 1


@pytest.mark.parametrize(
    "files", [{}, {"read.me": "a"}, {"a.yaml": "# a\n", "b.yml": "---\n"}, {"a.json": " "}]
)
def test_a_folder_without_a_manifest_is_an_error(
    command: Command, tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    ended = command("validate", tmp_path)

    assert ended.code == 1
    assert ended.out.startswith(f"{tmp_path}: error: ")
    assert ended.out.endswith("0 resources: 1 error, 0 warnings.\n")


def test_a_file_without_a_manifest_is_an_error_if_it_is_named(command: Command, shop: Path) -> None:
    empty = shop / "empty.yaml"
    empty.write_text("# to be written\n")

    assert command("validate", shop).code == 0
    assert command("validate", empty, shop / "shop.yaml").out.startswith(
        f"{empty}: error: There is no manifest"
    )


@pytest.mark.parametrize("mark", ["", "\ufeff", "---\r\n", "\ufeff---\n", "# Source: a\r\n---\r\n"])
def test_streams_of_other_programs_are_read(command: Command, mark: str) -> None:
    """Kustomize, Helm and Windows write markers, comments, line ends and byte order marks of their own."""
    text = mark + SHOP.replace("\n", "\r\n") + "---\r\n"

    assert command("validate", "-", stdin=text) == (0, "5 resources: nothing is wrong.\n", "")


def test_warnings_are_errors_if_asked_for(command: Command, tmp_path: Path) -> None:
    twin = SHOP[SHOP.rindex("apiVersion") :].replace("name: shop, namespace", "name: twin, namespace")
    (tmp_path / "shop.yaml").write_text(f"{SHOP}---\n{twin}")

    ended = command("validate", tmp_path, "--strict")

    assert ended.code == 1
    assert ended.out.endswith("6 resources: 2 errors, 0 warnings.\n")
    assert ": warning: " not in ended.out


def test_a_kind_that_no_gateway_reads_is_no_warning_also_if_warnings_are_errors(
    command: Command, tmp_path: Path
) -> None:
    """A chart has Deployments beside its routes, and nothing is wrong with them."""
    deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\n"
    (tmp_path / "shop.yaml").write_text(f"{SHOP}---\n{deployment}")

    ended = command("validate", tmp_path, "--strict")

    assert (ended.code, ended.out) == (0, "5 resources, 1 document ignored (Deployment): nothing is wrong.\n")


def test_json_has_each_diagnostic_with_its_place(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP.replace("parentRefs", "parentRef"))
    empty = tmp_path / "empty.yaml"
    empty.touch()

    ended = command("validate", path, empty, "--output", "json")

    assert (ended.code, ended.err) == (1, "")
    report = json.loads(ended.out)
    at_field, at_path = sorted(report.pop("diagnostics"), key=lambda each: each["field"], reverse=True)
    assert report == {
        "version": 1,
        "resources": 4,
        "ignored": 0,
        "errors": 2,
        "warnings": 0,
        "envoy": "",
    }
    assert at_field == {
        "severity": "error",
        "file": str(path),
        "line": line_of(path.read_text(), "  parentRef:"),
        "column": 3,
        "resource": {
            "kind": "HTTPRoute",
            "namespace": "default",
            "name": "shop",
            "group": "gateway.networking.k8s.io",
        },
        "field": "spec.parentRef",
        "reason": "Invalid",
        "message": "There is no field 'parentRef' here. Did you mean 'parentRefs'?",
        "effect": "It is not in force until this is fixed.",
    }
    assert (at_path["file"], at_path["line"], at_path["column"], at_path["resource"]) == (
        str(empty),
        None,
        None,
        None,
    )


def test_json_is_printed_of_sound_manifests_too(command: Command, shop: Path) -> None:
    ended = command("validate", shop, "-o", "json")

    assert ended.code == 0
    assert json.loads(ended.out)["diagnostics"] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# comments\n---\n",
        '{"apiVersion": "v1", "kind": "List", "items": []}',
        "kind: List\napiVersion: v1\nitems:\n",
    ],
)
def test_a_file_without_a_resource_is_said_to_have_none(command: Command, tmp_path: Path, text: str) -> None:
    """`kubectl get -o yaml` of what does not exist writes a list without items, which is no comment."""
    (tmp_path / "none.yaml").write_text(text)

    ended = command("validate", tmp_path / "none.yaml")

    assert ended.code == 1
    assert (
        "There is no manifest in it, only comments, a list without items, or nothing."
        in ended.out + ended.err
    )

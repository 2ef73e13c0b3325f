from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cli.conftest import SHOP, Command, line_of
from tests.core import https, key_bytes, new_key, tls_secret

SECURE = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: secure}}
spec:
  gatewayClassName: moongate
  listeners: [{https("https", "cert", port=8443)}]
---
"""


def test_statuses_and_xds_are_printed_by_fleet(command: Command, shop: Path) -> None:
    ended = command("translate", shop)

    printed = yaml.safe_load(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert list(printed["xds"]) == ["default/gateway"]
    assert list(printed["xds"]["default/gateway"]) == [
        "listeners",
        "routes",
        "clusters",
        "endpoints",
        "secrets",
    ]
    assert [one["kind"] for one in printed["status"]] == ["Gateway", "GatewayClass", "HTTPRoute"]


def test_a_part_can_be_had_alone_and_as_json(command: Command, shop: Path) -> None:
    printed = json.loads(command("translate", shop, "--of", "routes", "-o", "json").out)

    (table,) = printed["default/gateway"]
    assert table["virtualHosts"][0]["domains"] == ["*"]


def test_a_listener_binds_the_port_that_it_names(command: Command, shop: Path) -> None:
    """As ``moongate run`` has it: Envoy runs on this host."""
    (listener,) = json.loads(command("translate", shop, "--of", "listeners", "-o", "json").out)[
        "default/gateway"
    ]

    assert listener["address"]["socketAddress"]["portValue"] == 8080


def test_what_is_not_accepted_is_reported_with_its_place(command: Command, tmp_path: Path) -> None:
    """The rest is translated all the same."""
    lost = SHOP.replace("- {name: shop, port: 80}", "- {name: nowhere, port: 80}")
    (tmp_path / "lost.yaml").write_text(lost)
    line = line_of(lost, "    - {name: nowhere, port: 80}")

    ended = command("translate", tmp_path, "--of", "status")

    assert ended.code == 1
    assert ended.err.startswith(
        f"{tmp_path}/lost.yaml:{line}:14: HTTPRoute default/shop: spec.rules[0].backendRefs[0].name: "
    )
    assert "Service default/nowhere" in ended.err
    assert yaml.safe_load(ended.out)


def test_a_refused_manifest_is_reported_at_its_field(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(SHOP.replace("parentRefs", "parentRef"))
    line = line_of(SHOP, "  parentRefs:")

    ended = command("translate", tmp_path)

    assert ended.code == 1
    assert f"shop.yaml:{line}:3: HTTPRoute default/shop: spec.parentRef: " in ended.err


def test_manifests_come_from_standard_input_too(command: Command) -> None:
    ended = command("translate", "-", "--of", "clusters", stdin=SHOP)

    assert ended.code == 0
    assert "service/default/shop/80" in ended.out


def test_private_keys_are_not_shown(command: Command, tmp_path: Path) -> None:
    """Output is pasted into tickets."""
    key = new_key()
    (tmp_path / "secure.yaml").write_text(SECURE + tls_secret("cert", "a.example.com", key=key))

    ended = command("translate", tmp_path, "-o", "json")

    (secret,) = json.loads(ended.out)["xds"]["default/secure"]["secrets"]
    assert secret["tlsCertificate"]["privateKey"] == {"inlineString": "[redacted]"}
    assert "inlineBytes" in secret["tlsCertificate"]["certificateChain"]
    assert "PRIVATE" not in ended.out
    assert key_bytes(key).decode().splitlines()[1] not in ended.out


def test_a_namespace_is_given_to_what_names_none(command: Command, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(SECURE)

    printed = command("translate", tmp_path, "-n", "web", "--of", "clusters").out

    assert "web/secure" in yaml.safe_load(printed)


def test_a_configuration_holds_for_the_translation(command: Command, shop: Path, tmp_path: Path) -> None:
    """Without ``mergeBackends`` each rule has a cluster of its own."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\nprovider: {type: Kubernetes}\n"
    )

    printed = command("translate", shop, "--config", config, "--of", "clusters").out

    assert "httproute/default/shop/rule/0" in printed


def test_a_faulty_configuration_is_reported_with_its_place(
    command: Command, shop: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\nprovider: {type: Nomad}\n"
    )

    ended = command("translate", shop, "--config", config)

    assert ended.code == 2
    assert f"{config}:3:18: provider.type" in ended.err
    assert ended.out == ""

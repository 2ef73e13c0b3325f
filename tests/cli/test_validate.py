from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ONLY_ENVOY_REFUSES, SHOP, Command, line_of


def test_sound_manifests_are_said_to_be_sound(command: Command, shop: Path) -> None:
    assert command("validate", shop) == (0, "5 resources: nothing is wrong.\n", "")


def test_each_finding_has_its_place_and_severity(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(SHOP.replace("parentRefs", "parentRef"))
    line = line_of(SHOP, "  parentRefs:")

    ended = command("validate", tmp_path)

    finding, summary = ended.out.splitlines()
    assert ended.code == 1
    assert finding.startswith(
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


def test_what_a_gateway_has_no_use_for_is_counted(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        f"{SHOP}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: shop}}\n"
    )

    assert command("validate", tmp_path).out == "5 resources, 1 document passed over: nothing is wrong.\n"


@pytest.mark.envoy
@pytest.mark.slow
def test_envoy_takes_what_it_can_serve(command: Command, shop: Path) -> None:
    ended = command("validate", shop, "--envoy")

    assert ended.code == 0
    assert ended.out.startswith("5 resources: nothing is wrong. Envoy 1.")
    assert ended.out.endswith(" takes all of it.\n")


@pytest.mark.envoy
@pytest.mark.slow
def test_what_only_envoy_refuses_is_told_at_the_rule_it_comes_from(command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "refused.yaml").write_text(ONLY_ENVOY_REFUSES)

    assert command("validate", tmp_path).code == 0
    ended = command("validate", tmp_path, "--envoy")

    finding, _ = ended.out.splitlines()
    assert ended.code == 1
    assert finding.startswith(
        f"{tmp_path}/refused.yaml:9:5: error: HTTPRoute default/refused: spec.rules[1]: "
    )
    assert "'httproute/default/refused/rule/1/match/0/refused_example_com'" in finding
    assert "NOSUCH" in finding


def test_another_envoy_must_be_one(command: Command, shop: Path) -> None:
    ended = command("validate", shop, "--envoy=/bin/true")

    assert ended.code == 1
    assert ended.err.startswith("moongate: /bin/true ")
    assert ended.err.count("\n") == 1

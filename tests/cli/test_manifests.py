from __future__ import annotations

import gc
from pathlib import Path

import pytest

from moongate.cli.manifests import existing, statuses, translated
from moongate.cli.usage_errors import UsageError
from tests.cli.conftest import ONLY_ENVOY_REFUSES, SHOP


def test_a_gateway_class_need_not_be_written(tmp_path: Path) -> None:
    """On a laptop a Gateway and a route are enough, as they are for ``moongate run``."""
    (tmp_path / "shop.yaml").write_text(SHOP.partition("---")[2])

    translation = translated([str(tmp_path)], config=None, namespace="default")

    assert translation.errors == ()
    assert list(translation.world.xds()) == ["default/gateway"]


def test_gateways_of_another_controller_are_reported(tmp_path: Path) -> None:
    """A configuration that renames the controller leaves the classes of the former one to nobody."""
    (tmp_path / "shop.yaml").write_text(SHOP.replace("moongate", "eg"))
    (tmp_path / "config.yaml").write_text(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\n"
        "gateway: {controllerName: example.com/mine}\nextensionApis: {enableBackend: true}\n"
    )

    result = translated([str(tmp_path)], config=None, namespace="default")

    assert result.world.xds() == {}
    [warning] = result.diagnostics
    assert "and this one is 'example.com/mine'" in warning.problem.message


def test_whether_envoy_runs_is_not_guessed(shop: Path) -> None:
    translation = translated([str(shop)], config=None, namespace="default")

    (gateway,) = (one for one in statuses(translation.world) if one["kind"] == "Gateway")

    assert [c["type"] for c in gateway["status"]["conditions"]] == ["Accepted"]


def test_what_is_wrong_inside_a_policy_is_reported_at_the_field(tmp_path: Path) -> None:
    policy = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: users}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  basicAuth:
    users: {name: nowhere}
"""
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "policy.yaml").write_text(policy)

    translation = translated([str(tmp_path)], config=None, namespace="default")

    (diagnostic,) = translation.errors
    assert diagnostic.place.file == f"{tmp_path}/policy.yaml"
    assert diagnostic.place.line > 4
    assert "nowhere" in diagnostic.problem.message


def test_a_path_must_be_there() -> None:
    with pytest.raises(UsageError, match="There is no file or folder '/nowhere'"):
        existing(["/nowhere"])


@pytest.mark.usefixtures("only_own_garbage")
def test_what_is_read_is_not_searched_for_garbage(shop: Path) -> None:
    """Of thousands of routes that is a fifth of the work, and they live until the command ends."""
    many = (ONLY_ENVOY_REFUSES.replace("refused", f"app-{n}") for n in range(200))
    (shop / "many.yaml").write_text("---\n".join(many))
    translated([str(shop / "shop.yaml")], config=None, namespace="default")  # imports what is needed
    before = sum(generation["collections"] for generation in gc.get_stats())
    threshold = gc.get_threshold()
    gc.set_threshold(700)  # as by default; tests have a higher one
    try:
        translation = translated([str(shop)], config=None, namespace="default")
    finally:
        gc.set_threshold(*threshold)

    assert len(translation.world.store.resources()) > 200
    assert sum(generation["collections"] for generation in gc.get_stats()) - before < 20
    gc.unfreeze()

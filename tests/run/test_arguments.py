"""Nonsense of callers is said at once, with an error that names what would be right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import moongate
from moongate import ConfigurationError, Laptop, ManifestError, Ref, translate
from moongate.api.envoygateway import EnvoyGateway
from tests.deadline import DEADLINE_S

ENVOY = Path("/bin/true")
NONSENSE: list[Any] = [
    5,
    0.5,
    True,
    object(),
    [5],
    ["x"],
    [[]],
    {5},
    b"kind: Gateway",
    Path("a.yaml"),
    lambda: None,
]
CONFIG: dict[str, Any] = {
    "apiVersion": "gateway.envoyproxy.io/v1alpha1",
    "kind": "EnvoyGateway",
    "gateway": {},
}
BACKEND: dict[str, Any] = {
    "apiVersion": "gateway.envoyproxy.io/v1alpha1",
    "kind": "Backend",
    "metadata": {"name": "a"},
    "spec": {"endpoints": [{"ip": {"address": "127.0.0.1", "port": 80.0}}]},
}
REF = Ref("Backend", "default", "a", "gateway.envoyproxy.io")


def laptop(folder: Path, **options: Any) -> Laptop:
    whole: dict[str, Any] = {"run_dir": folder, "envoy": ENVOY} | options
    return Laptop(**whole)


def test_all_that_errors_and_results_are_made_of_is_public() -> None:
    """Whoever catches an error or names a resource imports it from the package itself."""
    for name in ("Ref", "Problem", "EnvoyFailedError", "EnvoyMissingError", "NoRunDirectoryError"):
        assert getattr(moongate, name).__name__ == name
        assert name in moongate.__all__


WRONG_OPTIONS: list[tuple[str, Any, type[Exception]]] = [
    ("config", 5, TypeError),
    ("config", "kind: EnvoyGateway", TypeError),
    ("config", {"kind": "EnvoyGateway"}, ConfigurationError),
    ("config", CONFIG | {"gatewayy": {}}, ConfigurationError),
    ("namespace", 5, TypeError),
    ("namespace", None, TypeError),
    ("bind", 5, TypeError),
    ("bind", "everywhere", ValueError),
    ("bind", "127.0.0.1:80", ValueError),
    ("envoy", 5, TypeError),
    ("envoy", "/no/such/envoy", moongate.EnvoyMissingError),
    ("run_dir", 5, TypeError),
    ("access_log", "stdout", TypeError),
    ("access_log", None, TypeError),
]


@pytest.mark.parametrize(("option", "value", "error"), WRONG_OPTIONS)
def test_an_option_of_a_wrong_type_is_an_error(
    option: str, value: Any, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match=r"\w") as caught:
        laptop(tmp_path, **{option: value})

    assert type(caught.value) is error


def test_options_may_be_written_as_people_have_them(tmp_path: Path) -> None:
    configs: list[Any] = [None, CONFIG, EnvoyGateway()]
    for config in configs:
        Laptop(config=config, run_dir=str(tmp_path), envoy=str(ENVOY), bind="::1", access_log=2)


async def test_a_gateway_that_does_not_run_says_so(tmp_path: Path) -> None:
    """It would wait for ever for an Envoy that nobody starts."""
    gateway = laptop(tmp_path)

    for call in (gateway.apply([]), gateway.delete(), gateway.served()):
        with pytest.raises(RuntimeError, match="async with"):
            await call


@pytest.fixture
async def running(folder: Path) -> Any:
    async with laptop(folder) as gateway:
        yield gateway


@pytest.mark.parametrize("manifests", NONSENSE, ids=lambda value: type(value).__name__)
async def test_what_is_no_manifest_cannot_be_applied(running: Laptop, manifests: Any) -> None:
    with pytest.raises(TypeError, match="of type"):
        await running.apply(manifests)


SECRET: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}
FAULTY: list[Any] = [
    {},
    [{"kind": 5, "apiVersion": []}],
    SECRET | {"data": {"a": {b"c4n4ry"}}},
    SECRET | {"stringData": {"a": {"c4n4ry"}}},
    SECRET | {"stringData": {"a": b"c4n4ry"}},
    SECRET | {"metadata": {"name": object()}},
    {"apiVersion": "v1", "kind": "List", "items": ["c4n4ry"]},
    CONFIG,
    "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\n",
    BACKEND | {"kind": "Backnd"},
]


@pytest.mark.parametrize("manifests", FAULTY)
async def test_manifests_with_faults_are_not_applied(running: Laptop, manifests: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        await running.apply(manifests)

    assert str(caught.value)
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize(
    "manifests",
    [
        BACKEND,
        [BACKEND, None],
        (BACKEND,),
        {"apiVersion": "v1", "kind": "List", "items": [BACKEND, None]},
        [BACKEND, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}],
        iter([BACKEND]),
    ],
)
async def test_manifests_are_applied_and_deleted_in_any_form(running: Laptop, manifests: Any) -> None:
    """One document, several, a list of them, with the empty documents that YAML libraries give."""
    await running.apply(manifests)

    assert REF in running.world.store.resources()

    await running.delete(BACKEND, REF._replace(name="none"))

    assert REF not in running.world.store.resources()


@pytest.mark.parametrize("named", ["a", 5, None, ("Backend", "a"), b"a"])
async def test_what_names_no_resource_cannot_be_deleted(running: Laptop, named: Any) -> None:
    with pytest.raises(TypeError, match="must be a Ref"):
        await running.delete(named)


async def test_a_manifest_without_a_name_cannot_be_deleted(running: Laptop) -> None:
    with pytest.raises(ManifestError):
        await running.delete(BACKEND | {"metadata": {}})


@pytest.mark.parametrize("seconds", ["5", [], True])
async def test_a_time_must_be_a_number(running: Laptop, seconds: Any) -> None:
    for call in (
        running.apply([], timeout_s=seconds),
        running.delete(timeout_s=seconds),
        running.served(timeout_s=seconds),
    ):
        with pytest.raises(TypeError, match="timeout_s must be a number of seconds"):
            await call
    async with asyncio.timeout(DEADLINE_S):
        await running.served(timeout_s=None)


@pytest.mark.parametrize("ref", ["a", 5, None, {}, ("Backend", "default", "a", "")])
async def test_a_status_is_asked_for_by_reference(running: Laptop, ref: Any) -> None:
    with pytest.raises(TypeError, match="named by a Ref"):
        running.statuses.document(ref)


@pytest.mark.parametrize("documents", NONSENSE, ids=lambda value: type(value).__name__)
def test_what_is_no_manifest_cannot_be_translated(documents: Any) -> None:
    with pytest.raises(TypeError, match="of type"):
        translate(documents)


@pytest.mark.parametrize("options", [{"config": 5}, {"config": "a"}, {"namespace": 5}, {"namespace": None}])
def test_options_of_a_translation_have_their_types(options: Any) -> None:
    with pytest.raises(TypeError, match=r"must be"):
        translate([], **options)

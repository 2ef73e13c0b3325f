"""What a document says: which faults it has, which kinds are read, and what has no effect."""

from __future__ import annotations

import pytest

from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.kinds import UNBUILT_KINDS
from moongate.sources.chunks import Place
from moongate.sources.diagnostics import Diagnostic
from moongate.sources.folder import Folder
from tests.sources.manifests import backend


def only(folder: Folder) -> Diagnostic:
    (diagnostic,) = folder.diagnostics()
    return diagnostic


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(
            backend("a", "many"),
            "9:15: Backend default/a: spec.endpoints[0].ip.port: The value is 'many'; it must be a whole "
            "number. It is not in force until this is fixed.",
            id="wrong type",
        ),
        pytest.param(
            backend("a").replace("endpoints", "endpoint"),
            "6:3: Backend default/a: spec.endpoint: There is no field 'endpoint' here. Did you mean "
            "'endpoints'? It is not in force until this is fixed.",
            id="unknown field",
        ),
        pytest.param(
            backend("a").replace("        port: 8080\n", ""),
            "7:7: Backend default/a: spec.endpoints[0].ip.port: port is missing; it is required. "
            "It is not in force until this is fixed.",
            id="missing field",
        ),
        pytest.param(
            backend("A"),
            "4:9: Backend default/A: metadata.name: The name is 'A'; it must have 1 to 253 characters of "
            "a-z, 0-9, '-', '.', beginning and ending with a letter or digit. "
            "It is not in force until this is fixed.",
            id="name",
        ),
        pytest.param(
            backend("a").replace("kind: Backend", "kind: Backand"),
            "2:7: Backand default/a: kind: 'Backand' of 'gateway.envoyproxy.io/v1alpha1' is not a kind "
            "that is read here. Did you mean 'Backend'? It is not in force until this is fixed.",
            id="unknown kind",
        ),
        pytest.param(
            "kind: Service\n",
            "1:1: apiVersion: apiVersion is missing; a manifest says what it is in apiVersion and kind. "
            "Nothing of this document is in force.",
            id="no apiVersion",
        ),
        pytest.param(
            "- a\n",
            "1:1: The document is a list; a manifest is an object with apiVersion and kind. "
            "Put `---` between resources. Nothing of this document is in force.",
            id="list",
        ),
        pytest.param(
            "kind: List\napiVersion: v1\nitems:\n"
            "- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: X\n",
            "7:11: Namespace X: items[0].metadata.name: The name is 'X'; it must have 1 to 63 characters "
            "of a-z, 0-9, '-', beginning and ending with a letter or digit. "
            "It is not in force until this is fixed.",
            id="in a list",
        ),
    ],
)
def test_a_fault_is_reported_with_its_place(text: str, line: str) -> None:
    folder = Folder()

    assert folder.update("f.yaml", text) == {}
    assert str(only(folder)) == f"f.yaml:{line}"
    assert only(folder).severity == "error"


@pytest.mark.parametrize("kind", sorted(kind for group, kind in UNBUILT_KINDS if group == GATEWAY_GROUP))
def test_a_kind_that_is_not_built_yet_is_reported(kind: str) -> None:
    folder = Folder()

    folder.update(
        "f.yaml", f"apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: x}}\n"
    )

    assert (only(folder).severity, only(folder).place) == ("warning", Place("f.yaml", 2, 7))
    assert only(folder).resource == Ref(kind, "default", "x", GATEWAY_GROUP)


def test_a_kind_that_a_gateway_has_no_use_for_is_passed_over() -> None:
    folder = Folder()

    folder.update("f.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n")

    assert only(folder).severity == "info"


def test_a_kind_in_a_wrong_group_is_reported() -> None:
    folder = Folder()

    folder.update("f.yaml", "apiVersion: networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x}\n")

    assert only(folder).severity == "warning"
    assert "'gateway.networking.k8s.io'" in only(folder).problem.message


def test_a_misspelt_core_kind_is_an_error() -> None:
    folder = Folder()

    folder.update("f.yaml", "apiVersion: v1\nkind: Sevice\nmetadata: {name: x}\n")

    assert only(folder).severity == "error"
    assert "Did you mean 'Service'?" in only(folder).problem.message


def test_a_field_without_effect_is_reported_where_it_stands() -> None:
    """It is in force for the rest, so only a warning keeps its author from relying on it."""
    folder = Folder()

    batch = folder.update(
        "proxy.yaml",
        "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
        "kind: EnvoyProxy\n"
        "metadata: {name: custom}\n"
        "spec:\n"
        "  geoIP: {}\n",
    )

    (diagnostic,) = folder.diagnostics()
    assert len(batch) == 1
    assert diagnostic.severity == "warning"
    assert str(diagnostic).startswith("proxy.yaml:5:10: EnvoyProxy default/custom: spec.geoIP:")


@pytest.mark.parametrize(
    ("field", "consequence"),
    [
        ("jwt: {}", "routes of this policy answer 500, so that nobody passes"),
        ("extAuth: {}", "routes of this policy answer 500"),
    ],
)
def test_what_follows_from_a_field_that_is_not_built_is_reported(field: str, consequence: str) -> None:
    """A field that closes routes must not be said to have no effect."""
    folder = Folder()

    folder.update(
        "f.yaml",
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: x}\n"
        "spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]\n"
        f"  {field}\n",
    )

    assert only(folder).severity == "warning"
    assert only(folder).problem.message.startswith(f"This field is not built yet; {consequence}")

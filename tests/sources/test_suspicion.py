from __future__ import annotations

import pytest

from moongate.policies.security_policy import FaultySecurityPolicy
from moongate.sources.folder import Folder
from moongate.sources.suspicion import may_guard, may_route


@pytest.mark.parametrize(
    "text",
    [
        "kind: SecurityPolicy\n\tspec:",
        "kind: SecurityPolcy\n",
        '{\n"kind": "SecurityPolicy",',
        " kind: SecurityPolicy\nspec: {",
        "knd: SecurityPolicy",
        "kind: HTTPRoute\n=======\nkind: SecurityPolicy\n",
        "kind: List\nitems: [",
        "kind: ClientTrafficPolicy\nspec: {tls: {clientValidation: [",
        "kind: ClientTrafficPolicy\nspec: {tls: {clientValidaton: [",
        "kind: Security Policy\n\tspec:",
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {{ .Values.kind }}",
        "metadata: {name: users}\nspec:\n\tbasicAuth: {}",
        "kind: BackendTrafficPolicy\nspec: {basicAuth: [",
        "kind: SecurityPolicy\n\t".encode("utf-16-be").decode(),
        "apiVersion: gateway.envoyproxy.io/v1al",
        "# users\napiVersion: gateway.",
        "apiVersion:",
        "apiV",
        '{"apiVersion": "gateway.envoyp',
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\tspec:",
        "kind: BackendTlsPolcy\nspec: [",
    ],
)
def test_a_text_that_may_be_a_security_policy_is_suspected(text: str) -> None:
    assert may_guard(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "replicas: [1",
        "apiVersion: gateway.networking.k8s.io/v1",
        "apiVersion: v1",
        "a",
        "kind: HTTPRoute\n\t# beside the SecurityPolicy of this name",
        "kind: BackendTrafficPolicy\nspec: [",
        "kind: ClientTrafficPolicy\nspec: {timeout: [",
        "kind: PodSecurityPolicy2000\n[",
        "apiVersion: v1\nkind: Secret\nstringData: {jwt: [",
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backendd\n\t",
        "kind: HTTPRoute\nspec: {rules: [{matches: [{headers: [{name: authorization, value: ",
    ],
)
def test_a_text_of_another_kind_is_not_suspected(text: str) -> None:
    assert not may_guard(text)


@pytest.mark.parametrize(
    ("text", "is_route"),
    [
        ("kind: HTTPRoute\n\t", True),
        ("kind: HttpRoot\n\t", True),
        ("knd: HTTPRoute\n", True),
        ("apiVersion: gateway.n", True),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind:", True),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway", False),
        ("apiVersion: gateway.", False),
        ("kind: Backend\n\t", False),
        ("kind: SecurityPolicy\nspec:\n\ttargetRef: {kind: HTTPRoute}", False),
        ("replicas: [1", False),
    ],
)
def test_a_text_may_be_a_route(text: str, *, is_route: bool) -> None:
    assert may_route(text) is is_route


SLIPS = {
    "no kind": ("kind: SecurityPolicy\n", ""),
    "no value": ("kind: SecurityPolicy", "kind:"),
    "another kind": ("SecurityPolicy", "BackendTrafficPolicy"),
    "a kind that nobody knows": ("SecurityPolicy", "AuthorizationPolicy"),
    "no group": ("gateway.envoyproxy.io/", ""),
    "a part of the group": ("gateway.envoyproxy.io", "envoyproxy.io"),
    "no version": ("gateway.envoyproxy.io/v1alpha1", "gateway.envoyproxy.io"),
    "a namespace that cannot be": ("name: users,", "name: users, namespace: Shop,"),
}


@pytest.mark.parametrize(("right", "wrong"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_in_kind_or_group_or_namespace_opens_nothing(right: str, wrong: str) -> None:
    """The namespace says what is closed, unless it is what is wrong."""
    text = (
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\n"
        "metadata: {name: users, labels: {}}\n"
        "spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app}]\n"
        "  basicAuth: {users: {name: users}}\n"
    )
    assert right in text
    folder = Folder(strict=True)

    batch = folder.update("policy.yaml", text.replace(right, wrong))

    assert folder.closing.closed in (("",), ("default",)) or any(
        isinstance(r, FaultySecurityPolicy) for r in batch.values()
    )
    if "Shop" in wrong:
        assert folder.closing.closed == ("",)


ENVOY = "apiVersion: gateway.envoyproxy.io/v1alpha1\n"


@pytest.mark.parametrize("of_list", [False, True])
@pytest.mark.parametrize(
    ("text", "is_suspect"),
    [
        ("apiVersion:", True),
        ("apiVersion: gateway.envoyp", True),
        ('{"apiVersion": "gateway.envoyproxy.io/v1"}', True),
        ("apiVers:", True),
        (ENVOY + "kind:", True),
        (ENVOY + "kind: 5", True),
        (ENVOY + "kind: {a: b}", True),
        (ENVOY + "spec: |\n  kind: Backend", True),
        ("kind: SecurityPolicy", True),
        ("apiVersion: gateway.networking.k8s.io/v1", False),
        ("apiVersion: v1", False),
        ("kind: HTTPRoute", False),
        (ENVOY + "kind: Backend", False),
        (ENVOY + "kind: BackendTrafficPolicy\nmetadata: {name: 5}\nspec: {}", False),
        ("apiVersion: v1\nkind: Secret\nstringData: {jwt: a}", False),
        ("apiVersion: v1\nkind: ConfigMap\ndata: {a: SecurityPolicy}", False),
    ],
)
def test_data_without_a_name_or_kind_are_judged_as_a_text(
    text: str, *, is_suspect: bool, of_list: bool
) -> None:
    """A file that is half written may be sound YAML, and a kind that is known is no policy."""
    folder = Folder(strict=True)
    if of_list:
        text = "apiVersion: v1\nkind: List\nitems:\n- " + text.replace("\n", "\n  ")

    folder.update("f.yaml", text)

    assert folder.closing.closed == (("",) if is_suspect else ())


def test_a_fault_beside_a_policy_in_a_list_closes_nothing() -> None:
    """What is in other resources of the list does not matter."""
    policy = (
        "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {name: p}, spec: {"
        "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app}], "
        "basicAuth: {users: {name: users}}}}"
    )
    route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: UP}}"
    folder = Folder(strict=True)

    sound = route.replace("UP}", "app}, spec: {}")
    folder.update("all.yaml", f"apiVersion: v1\nkind: List\nitems: [{policy}, {route}, {sound}]\n")

    assert folder.closing.closed == ()
    assert len(folder.resources) == 2

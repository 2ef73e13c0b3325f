"""Who may refer to what across namespaces."""

from __future__ import annotations

import pytest

from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.core import Secret
from moongate.attach.grants import granted
from tests.core import Core

CERT = Ref.of(Secret, "vault", "cert")


def grant(name: str, kind: str = "Gateway", to: str = '{group: "", kind: Secret}') -> str:
    return f"""
        apiVersion: gateway.networking.k8s.io/v1beta1
        kind: ReferenceGrant
        metadata: {{name: {name}, namespace: vault}}
        spec:
          from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}]
          to: [{to}]
    """


def test_within_a_namespace_no_grant_is_needed() -> None:
    assert granted(Core().db, GATEWAY_GROUP, "Gateway", "vault", CERT)


@pytest.mark.parametrize(
    ("grants", "allowed"),
    [
        ((), False),
        ((grant("a"),), True),
        ((grant("a", kind="HTTPRoute"),), False),
        ((grant("a", to='{group: "", kind: Secret, name: cert}'),), True),
        ((grant("a", to='{group: "", kind: Secret, name: other}'),), False),
        ((grant("a", to='{group: "", kind: Service}'), grant("b")), True),
    ],
    ids=["none", "kind", "other-kind", "by-name", "other-name", "several-add-up"],
)
def test_across_namespaces_a_grant_must_say_so(grants: tuple[str, ...], *, allowed: bool) -> None:
    core = Core(*grants)

    assert granted(core.db, GATEWAY_GROUP, "Gateway", "default", CERT) is allowed


def test_a_grant_that_is_taken_back_is_no_grant() -> None:
    core = Core(grant("a"))
    before = granted(core.db, GATEWAY_GROUP, "Gateway", "default", CERT)

    core.delete("ReferenceGrant", "vault", "a")

    assert (before, granted(core.db, GATEWAY_GROUP, "Gateway", "default", CERT)) == (True, False)

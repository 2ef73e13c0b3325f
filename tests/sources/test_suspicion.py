from __future__ import annotations

import pytest

from moongate.sources.suspicion import may_guard


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
    ],
)
def test_a_text_that_may_be_a_security_policy_is_suspected(text: str) -> None:
    assert may_guard(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "replicas: [1",
        "kind: HTTPRoute\n\t# beside the SecurityPolicy of this name",
        "kind: BackendTrafficPolicy\nspec: [",
        "kind: ClientTrafficPolicy\nspec: {timeout: [",
        "kind: PodSecurityPolicy2000\n[",
    ],
)
def test_a_text_of_another_kind_is_not_suspected(text: str) -> None:
    assert not may_guard(text)

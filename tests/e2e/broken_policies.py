"""A SecurityPolicy for users with passwords, and what may be wrong with it in its file."""

from __future__ import annotations

import msgspec

POLICY = """apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata:
  name: users
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: app
  basicAuth:
    users:
      name: users
"""
SHA_OF_TEST = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n"


def json_of(text: str) -> str:
    return msgspec.json.encode(msgspec.yaml.decode(text)).decode()


A_TAB = POLICY.replace("  basicAuth:", "\tbasicAuth:")
FAULTS = {
    "a tab": A_TAB,
    "wrong indentation": POLICY.replace("  basicAuth:", " basicAuth:"),
    "a duplicate key": POLICY.replace("  name: users\nspec", "  name: users\n  name: users\nspec"),
    "a latin-1 byte": POLICY.replace("name: app", "name: app # f\xfcr").encode("latin-1"),
    "a wrong apiVersion": POLICY.replace("v1alpha1", "v1"),
    "a wrong group": POLICY.replace("envoyproxy", "envoyproxi"),
    "a wrong kind": POLICY.replace("SecurityPolicy", "SecurityPolcy"),
    "a kind in lower case": POLICY.replace("SecurityPolicy", "securitypolicy"),
    "no kind": POLICY.replace("kind: SecurityPolicy\n", "# a SecurityPolicy\n"),
    "a wrong key for the kind": POLICY.replace("kind: SecurityPolicy", "knd: SecurityPolicy"),
    "a target without group": POLICY.replace("- group: gateway.networking.k8s.io\n   ", "-"),
    "a target of a wrong kind": POLICY.replace("HTTPRoute", "HttpRoute"),
    "a selector of a wrong kind": POLICY.replace("targetRefs", "targetSelectors")
    .replace("HTTPRoute", "HttpRoute")
    .replace("name: app", "matchLabels: {app: app}"),
    "an upper-case name": POLICY.replace("name: users\nspec", "name: Users\nspec"),
    "no name": POLICY.replace("  name: users\nspec", "  labels: {}\nspec"),
    "an unknown field": POLICY.replace("basicAuth", "basicAuht"),
    "the end cut off": POLICY[:-24],
    "the middle cut off": POLICY[:150],
    "JSON cut off": json_of(POLICY)[:-30],
    "one document of several": f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n---\n{POLICY}\tx",
    "in a List": "apiVersion: v1\nkind: List\nitems:\n- "
    + POLICY.replace("\n", "\n  ").replace("HTTPR", "HttpR"),
    "a List with a tab": "apiVersion: v1\nkind: List\nitems:\n- " + POLICY.replace("\n", "\n  ") + "\t-",
}

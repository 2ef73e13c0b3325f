"""Manifests that are broken, each in its own way: what is written, and what must be said of it.

``@PORT@`` and the like stand for what the healthy folder of the campaign uses: see ``healthy.rendered``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

CORE: Final = "v1"
GATEWAY: Final = "gateway.networking.k8s.io/v1"
ENVOY: Final = "gateway.envoyproxy.io/v1alpha1"
BUNDLES: Final = "certificates.k8s.io/v1beta1"
IMPORTS: Final = "multicluster.x-k8s.io/v1alpha1"
SLICES: Final = "discovery.k8s.io/v1"

_VERSIONS: Final = {
    **dict.fromkeys(("ConfigMap", "Namespace", "Secret", "Service"), CORE),
    **dict.fromkeys(("Backend", "BackendTrafficPolicy", "ClientTrafficPolicy", "EnvoyPatchPolicy"), ENVOY),
    **dict.fromkeys(("EnvoyProxy", "HTTPRouteFilter", "SecurityPolicy"), ENVOY),
    "ClusterTrustBundle": BUNDLES,
    "EndpointSlice": SLICES,
    "ServiceImport": IMPORTS,
}
_CLUSTER_SCOPED: Final = frozenset({"ClusterTrustBundle", "GatewayClass"})
NAMESPACE: Final = "broken"


class Broken(Struct, frozen=True):
    """One broken file.

    Args:
        text: what stands in it.
        of: the resource that must be named, as "KIND NAMESPACE/NAME"; "" where the text has none.
        says: words that one message about it must have.
    """

    text: str
    of: str
    says: tuple[str, ...]


def broken() -> Iterator[Broken]:
    """All of them; the names of the resources are numbers."""
    for n, (kind, body, *says) in enumerate(_ROWS):
        name = f"b-{n}"
        text = body.replace("@NAME@", name)
        said = tuple(words.replace("@NAME@", name) for words in says)
        if not text.startswith("spec"):
            of = kind.removeprefix("*").replace("@NAME@", name)
            yield Broken(text, of if kind.startswith("*") or not kind else f"{kind} default/{name}", said)
            continue
        is_global = kind in _CLUSTER_SCOPED
        metadata = f"{{name: {name}}}" if is_global else f"{{name: {name}, namespace: {NAMESPACE}}}"
        head = f"apiVersion: {_VERSIONS.get(kind, GATEWAY)}\nkind: {kind}\nmetadata: {metadata}\n"
        of = f"{kind} {name}" if is_global else f"{kind} {NAMESPACE}/{name}"
        yield Broken(head + text.removeprefix("spec only\n"), of, said)
    yield from _ABSURD


_HOSTNAMES: Final = ", ".join(f"h{n}.test" for n in range(10_000))
_ALIASES: Final = "".join(
    f"{a}: &{a} [{', '.join([f'*{b}'] * 9)}]\n" for a, b in zip("bcdefghij", "abcdefghi", strict=True)
)
_ABSURD: Final = (
    Broken(
        f"apiVersion: {GATEWAY}\nkind: HTTPRoute\nmetadata: {{name: hosts, namespace: {NAMESPACE}}}\n"
        f"spec: {{hostnames: [{_HOSTNAMES}], rules: [{{}}]}}\n",
        f"HTTPRoute {NAMESPACE}/hosts",
        ("spec.hostnames: ", "10000 entries"),
    ),
    Broken(f"a: &a [x, x, x, x, x, x, x, x, x]\n{_ALIASES}", "", ("aliases", "200000")),
    Broken("[" * 50_000, "", ("nested deeper than 200 levels",)),
    Broken(
        f"apiVersion: v1\nkind: ConfigMap\n"
        f"metadata: {{name: big, namespace: {NAMESPACE}, annotations: {{a: {'x' * (1 << 20)}}}}}\n"
        "data: {a: 7}\n",
        f"ConfigMap {NAMESPACE}/big",
        ("data[a]: ", "number"),
    ),
)

SOUND: Final = f"""\
apiVersion: {GATEWAY}
kind: GatewayClass
metadata: {{name: merged}}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: merging, namespace: broken}}
---
apiVersion: {ENVOY}
kind: EnvoyProxy
metadata: {{name: merging, namespace: broken}}
spec: {{mergeGateways: true, concurrency: 1}}
---
apiVersion: {GATEWAY}
kind: Gateway
metadata: {{name: side, namespace: broken}}
spec: {{gatewayClassName: moongate, listeners: [{{name: http, port: @OTHER@, protocol: HTTP}}]}}
---
apiVersion: {ENVOY}
kind: Backend
metadata: {{name: one, namespace: broken}}
spec: {{endpoints: [{{ip: {{address: 127.0.0.1, port: @UPSTREAM@}}}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: stock, namespace: broken}}
spec: {{clusterIP: 10.96.0.7, ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: pages, namespace: broken}}
data: {{closed.txt: We are closed.}}
---
apiVersion: v1
kind: Secret
metadata: {{name: users, namespace: broken}}
stringData: {{credential: c4n4ry}}
---
apiVersion: v1
kind: Secret
metadata: {{name: certificate, namespace: broken}}
type: kubernetes.io/tls
data: {{tls.crt: @CERTIFICATE@, tls.key: @KEY@}}
"""
"""What the broken ones refer to."""

_ROWS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{path: {type: PathPrefix, value: "
            "nope}}], backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].path: ",
        "A path of type Exact or PathPrefix must start with '/'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{path: {type: RegularExpression, "
            "value: '(a'}}], backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: "
            "one}]}]}"
        ),
        "Failed to process route rule 0: '(a' is not a regular expression of RE",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{path: {type: Wild, value: /}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].path.type: ",
        "The value is 'Wild'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{method: FETCH}], backendRefs: "
            "[{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].method: ",
        "The value is 'FETCH'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{headers: [{name: 'a b', value: x}]}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].headers[0].name: ",
        "The value is 'a b'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{headers: [{name: a, type: "
            "RegularExpression, value: '['}]}], backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "Failed to process route rule 0: '[' is not a regular expression of RE2",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{queryParams: [{name: q, value: "
            "''}]}], backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].queryParams[0].value: ",
        "'' has 0 characters",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{timeouts: {request: 1s, backendRequest: 10s}, "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].timeouts: ",
        "backendRequest must not be longer than request",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{timeouts: {request: 300y}, backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].timeouts.request: ",
        "The value is '300y'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{timeouts: {request: -1s}, backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].timeouts.request: ",
        "The value is '-1s'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one, weight: -1}]}]}"
        ),
        "spec.rules[0].backendRefs[0].weight: ",
        "-1 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one, weight: 1000001}]}]}"
        ),
        "spec.rules[0].backendRefs[0].weight: ",
        "1000001 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: stock, port: 0}]}]}"
        ),
        "spec.rules[0].backendRefs[0].port: ",
        "0 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: stock, port: 70000}]}]}"
        ),
        "spec.rules[0].backendRefs[0].port: ",
        "70000 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: stock, port: 80.5}]}]}"
        ),
        "spec.rules[0].backendRefs[0].port: ",
        "The value is 80.5",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: stock, port: '80'}]}]}"
        ),
        "spec.rules[0].backendRefs[0].port: ",
        "The value is '80'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: stock, port: 99}]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "Service broken/stock has no TCP port 99",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: nowhere, port: 80}]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "Service broken/nowhere does not exist",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{kind: Pod, name: stock, port: "
            "80}]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "The kind is 'Pod'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: secret, namespace: away}]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "No ReferenceGrant in namespace away lets the route use Backend away/se",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: stock, namespace: away, "
            "port: 80}]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "No ReferenceGrant in namespace away lets the route use Service away/st",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: yes}]}"
        ),
        "spec.rules[0].backendRefs: ",
        "The value is true",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [7]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "The value is 7",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: RequestRedirect, "
            "requestRedirect: {statusCode: 777}}], backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].requestRedirect.statusCode: ",
        "The value is 777",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: RequestRedirect, "
            "requestRedirect: {port: 70000}}], backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].requestRedirect.port: ",
        "70000 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: URLRewrite}], backendRefs: "
            "[{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0]: ",
        "type URLRewrite needs urlRewrite",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: URLRewrite, urlRewrite: "
            "{hostname: '*.b'}}], backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, "
            "name: one}]}]}"
        ),
        "spec.rules[0].filters[0].urlRewrite.hostname: ",
        "The value is '*.b'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: RequestMirror, requestMirror: "
            "{backendRef: {name: stock, port: 80}, percent: 200}}], backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].requestMirror.percent: ",
        "200 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: nowhere}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].extensionRef: ",
        "HTTPRouteFilter broken/nowhere does not exist",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: a.b, kind: Magic, name: nowhere}}], backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "ExtensionRef names Magic of the group 'a.b'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: CORS, cors: {maxAge: 0}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].cors.maxAge: ",
        "0 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: RequestHeaderModifier, "
            "requestHeaderModifier: {set: [{name: ':path', value: x}]}}], backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].requestHeaderModifier.set[0].name: ",
        "The value is ':path'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: nowhere}], hostnames: [@NAME@.test], rules: "
            "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.parentRefs[0].name: ",
        "There is no Gateway broken/nowhere",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: nowhere}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "The Gateway has no listener of name 'nowhere'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, port: 70000}], hostnames: "
            "[@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, "
            "name: one}]}]}"
        ),
        "spec.parentRefs[0].port: ",
        "70000 is out of range",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{kind: HTTPRoute, name: '@NAME@'}], hostnames: [@NAME@.test], "
            "rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.parentRefs[0]: ",
        "The parent is a HTTPRoute",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [Ünïcode.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "spec.hostnames[0]: ",
        "The value is 'Ünïcode.test'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: ['a.*.test'], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "spec.hostnames[0]: ",
        "The value is 'a.*.test'",
    ),
    (
        "HTTPRoute",
        ("spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: 'a text'}"),
        "spec.rules: ",
        "The value is 'a text'",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[], rulez: []}"
        ),
        "spec.rules: ",
        "The list has 0 entries",
    ),
    ("HTTPRoute", "spec: null", "spec: ", "spec is missing"),
    ("HTTPRoute", "spec: []", "spec: ", "The value is a list"),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{method: {service: 'a b'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].method: ",
        "A service of type Exact is names joined by dots",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{method: {}}], backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].method: ",
        "A method match needs service",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{method: {type: RegularExpression, "
            "service: '('}}], backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: "
            "one}]}]}"
        ),
        "spec.rules[0]: ",
        "Failed to process route rule 0: '(' is not a regular expression of RE2",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{method: {type: Prefix, service: a}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].matches[0].method.type: ",
        "The value is 'Prefix'",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{matches: [{headers: [{name: a, value: b}, {name: "
            "a, value: c}]}], backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: "
            "one}]}]}"
        ),
        "spec.rules[0].matches[0].headers[1]: ",
        "The entry repeats name 'a' of [0]",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: RequestRedirect}], backendRefs: "
            "[{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].type: ",
        "The value is 'RequestRedirect'",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: RequestMirror, requestMirror: "
            "{backendRef: {name: nowhere, port: 80}}}], backendRefs: [{group: "
            "gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].requestMirror.backendRef.name: ",
        "There is no Service broken/nowhere",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: nowhere}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].filters[0].extensionRef.name: ",
        "There is no HTTPRouteFilter broken/nowhere",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{name: nowhere, port: 50051}]}]}"
        ),
        "spec.rules[0].backendRefs[0].name: ",
        "There is no Service broken/nowhere",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{sessionPersistence: {type: Magic}, backendRefs: "
            "[{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules[0].sessionPersistence.type: ",
        "The value is 'Magic'",
    ),
    (
        "GRPCRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: nowhere}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "spec.parentRefs[0]: ",
        "The Gateway has no listener of name 'nowhere'",
    ),
    (
        "TLSRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}]}"
        ),
        "None of the listeners that are meant (http) takes routes of kind TLSRo",
    ),
    (
        "TLSRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: [{group: gateway.envoyproxy.io, "
            "kind: Backend, name: one}]}, {backendRefs: [{group: gateway.envoyproxy.io, kind: "
            "Backend, name: one}]}]}"
        ),
        "spec.rules: ",
        "The list has 2 entries",
    ),
    (
        "TLSRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [10.1.1.1], rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: "
            "Backend, name: one}]}]}"
        ),
        "spec.hostnames[0]: ",
        "A hostname is a name",
    ),
    (
        "TLSRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.hostnames: ",
        "hostnames is missing",
    ),
    (
        "TLSRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{backendRefs: []}]}"
        ),
        "spec.rules[0].backendRefs: ",
        "The list has 0 entries",
    ),
    (
        "TLSRoute",
        (
            "spec: {parentRefs: [{name: nowhere}], hostnames: [@NAME@.test], rules: "
            "[{backendRefs: [{name: nowhere, port: 443}]}]}"
        ),
        "spec.rules[0].backendRefs[0].name: ",
        "There is no Service broken/nowhere",
    ),
    (
        "TCPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "None of the listeners that are meant (http) takes routes of kind TCPRo",
    ),
    (
        "TCPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}, "
            "{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "spec.rules: ",
        "The list has 2 entries",
    ),
    (
        "TCPRoute",
        ("spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: []}"),
        "spec.rules: ",
        "The list has 0 entries",
    ),
    (
        "TCPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: nowhere}], "
            "rules: [{backendRefs: [{name: nowhere, port: 1}]}]}"
        ),
        "spec.rules[0].backendRefs[0]: ",
        "Service broken/nowhere does not exist",
    ),
    (
        "TCPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [a.b], rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: "
            "Backend, name: one}]}]}"
        ),
        "spec.hostnames: ",
        "There is no field 'hostnames' here",
    ),
    (
        "UDPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}"
        ),
        "None of the listeners that are meant (http) takes routes of kind UDPRo",
    ),
    (
        "UDPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[{backendRefs: [{name: stock, port: 65536}]}]}"
        ),
        "spec.rules[0].backendRefs[0].port: ",
        "65536 is out of range",
    ),
    (
        "UDPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], rules: "
            "[{name: 'UPPER CASE', backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, "
            "name: one}]}]}"
        ),
        "spec.rules[0].name: ",
        "The value is 'UPPER CASE'",
    ),
    (
        "Gateway",
        "spec: {gatewayClassName: merged, listeners: [{name: http, port: 0, protocol: HTTP}]}",
        "spec.listeners[0].port: ",
        "0 is out of range",
    ),
    (
        "Gateway",
        ("spec: {gatewayClassName: merged, listeners: [{name: http, port: 70000, protocol: HTTP}]}"),
        "spec.listeners[0].port: ",
        "70000 is out of range",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: http, port: @SPARE@, protocol: "
            "HTTP}, {name: http, port: @SPARE@, protocol: HTTP}]}"
        ),
        "spec.listeners: ",
        "Two listeners have the same name",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP}, {name: b, port: @SPARE@, protocol: HTTP}]}"
        ),
        "spec.listeners: ",
        "Two listeners have the same port",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "TCP}, {name: b, port: @SPARE@, protocol: HTTP}]}"
        ),
        "Port ",
    ),
    (
        "Gateway",
        ("spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: GOPHER}]}"),
        "Protocol GOPHER is not served",
    ),
    (
        "Gateway",
        ("spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: HTTPS}]}"),
        "A listener of protocol HTTPS needs tls",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: nowhere}]}}]}"
        ),
        "No certificate can be served: tls.certificateRefs[0]: Secret broken/no",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: pem-1}]}}]}"
        ),
        "No certificate can be served: tls.certificateRefs[0]: Secret broken/pe",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: certificate, namespace: away}]}}]}"
        ),
        "No certificate can be served: tls.certificateRefs[0]: No ReferenceGran",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {mode: Passthrough}}]}"
        ),
        "spec.listeners[0]: ",
        "tls.mode of an HTTPS listener must be Terminate",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP, allowedRoutes: {kinds: [{kind: Pod}]}}]}"
        ),
        "A listener of protocol HTTP does not take gateway.networking.k8s.io/Po",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP, allowedRoutes: {namespaces: {from: Selector}}}]}"
        ),
        "AllowedRoutes.namespaces.selector is missing",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP, hostname: '*'}]}"
        ),
        "spec.listeners[0].hostname: ",
        "The value is '*'",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP}], infrastructure: {parametersRef: {group: gateway.envoyproxy.io, kind: "
            "EnvoyProxy, name: nowhere}}}"
        ),
        "spec.infrastructure.parametersRef.name: ",
        "There is no EnvoyProxy broken/nowhere",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP}], addresses: [{type: IPAddress, value: 'a.b'}]}"
        ),
        "spec.addresses[0]: ",
        "A value of type IPAddress must be an IPv4 or IPv6 address",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: certificate}]}}], tls: {frontend: {default: "
            "{validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: nowhere}]}}}}}"
        ),
        "spec.tls.frontend.default.validation.caCertificateRefs[0]: ",
        "ConfigMap broken/nowhere does not exist",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: certificate}]}}], tls: {frontend: {default: "
            "{validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: pages}]}}}}}"
        ),
        "spec.tls.frontend.default.validation.caCertificateRefs[0]: ",
        "ConfigMap broken/pages holds no certificate in closed.txt: it must be ",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: certificate}]}}], tls: {frontend: {default: "
            "{}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}}}"
        ),
        "spec.tls.frontend.perPort: ",
        "Two entries have the same port",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, tls: {certificateRefs: [{name: certificate}]}}], tls: {frontend: {default: "
            "{validation: {caCertificateRefs: [{group: '', kind: Pod, name: a}]}}}}}"
        ),
        "spec.tls.frontend.default.validation.caCertificateRefs[0].kind: ",
        "The kind is 'Pod'",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP}], tls: {frontend: {perPort: []}}}"
        ),
        "spec.tls.frontend.default: ",
        "default is missing",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTP}], tls: {backend: {clientCertificateRef: {name: nowhere}}}}"
        ),
        "spec.tls.backend.clientCertificateRef: ",
        "Secret broken/nowhere does not exist",
    ),
    (
        "Gateway",
        "spec: {gatewayClassName: '', listeners: [{name: a, port: @SPARE@, protocol: HTTP}]}",
        "spec.gatewayClassName: ",
        "'' has 0 characters",
    ),
    (
        "Gateway",
        ("spec: {gatewayClassName: nowhere, listeners: [{name: a, port: @SPARE@, protocol: HTTP}]}"),
        "spec.gatewayClassName: ",
        "There is no GatewayClass nowhere",
    ),
    (
        "Gateway",
        "spec: {gatewayClassName: merged, listeners: []}",
        "spec.listeners: ",
        "The list has 0 entries",
    ),
    ("GatewayClass", "spec: {controllerName: nonsense}", "spec.controllerName: ", "The value is 'nonsense'"),
    (
        "GatewayClass",
        (
            "spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller, "
            "parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: nowhere, "
            "namespace: default}}"
        ),
        "spec.parametersRef: ",
        "EnvoyProxy default/nowhere does not exist",
    ),
    (
        "GatewayClass",
        (
            "spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller, "
            "parametersRef: {group: gateway.networking.k8s.io, kind: GatewayClass, name: "
            "'@NAME@'}}"
        ),
        "spec.parametersRef: ",
        "gateway.networking.k8s.io/GatewayClass has no meaning here",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: default}, listeners: [{name: a, port: "
            "@SPARE@, protocol: HTTP}]}"
        ),
        "spec.parentRef: ",
        "Gateway default/gateway does not take listeners from namespace broken:",
    ),
    (
        "ListenerSet",
        ("spec: {parentRef: {name: nowhere}, listeners: [{name: a, port: @SPARE@, protocol: HTTP}]}"),
        "spec.parentRef.name: ",
        "There is no Gateway broken/nowhere",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {kind: ListenerSet, name: '@NAME@'}, listeners: [{name: a, port: "
            "@SPARE@, protocol: HTTP}]}"
        ),
        "spec.parentRef: ",
        "The parent is a ListenerSet",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: default}, listeners: [{name: a, port: "
            "0, protocol: HTTP}]}"
        ),
        "spec.listeners[0].port: ",
        "0 is out of range",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: default}, listeners: [{name: a, port: "
            "@SPARE@, protocol: HTTP}, {name: a, port: 1, protocol: HTTP}]}"
        ),
        "spec.listeners: ",
        "Two listeners have the same name",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: default}, listeners: [{name: a, port: "
            "@SPARE@, protocol: HTTP}, {name: b, port: @SPARE@, protocol: HTTP}]}"
        ),
        "spec.listeners: ",
        "Two listeners have the same port",
    ),
    (
        "ListenerSet",
        "spec: {parentRef: {name: gateway, namespace: default}, listeners: []}",
        "spec.listeners: ",
        "The list has 0 entries",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: default}, listeners: [{name: a, port: "
            "@SPARE@, protocol: TLS}]}"
        ),
        "spec.listeners[0]: ",
        "A listener of protocol TLS needs tls with a mode",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: default}, listeners: [{name: a, port: "
            "@SPARE@, protocol: HTTP, hostname: 'ä.b'}]}"
        ),
        "spec.listeners[0].hostname: ",
        "The value is 'ä.b'",
    ),
    (
        "ListenerSet",
        (
            "spec: {parentRef: {name: gateway, namespace: away}, listeners: [{name: a, port: "
            "@SPARE@, protocol: HTTP}]}"
        ),
        "spec.parentRef.name: ",
        "There is no Gateway away/gateway",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: '', kind: Service, name: nowhere}], validation: "
            "{wellKnownCACertificates: System, hostname: a.b}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no Service broken/nowhere",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: '', kind: Service, name: nowhere}], validation: "
            "{caCertificateRefs: [{group: '', kind: ConfigMap, name: nowhere}], hostname: a.b}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no Service broken/nowhere",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: '', kind: Service, name: nowhere}], validation: "
            "{wellKnownCACertificates: System, hostname: a.b, subjectAltNames: [{type: URI, "
            "hostname: a.b}]}}"
        ),
        "spec.validation.subjectAltNames[0]: ",
        "hostname is set",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: '', kind: Pod, name: stock}], validation: "
            "{wellKnownCACertificates: System, hostname: a.b}}"
        ),
        "spec.targetRefs[0]: ",
        "The kind is 'Pod'",
    ),
    ("ClusterTrustBundle", "spec: {trustBundle: 7}", "spec.trustBundle: ", "The value is 7"),
    ("ClusterTrustBundle", "spec: {}", "spec.trustBundle: ", "trustBundle is missing"),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: add, path: /nonsense, value: 7}}]}"
        ),
        "spec.jsonPatches[0]: ",
        'The result is no Listener: Message type "envoy.config.listener.v3.List',
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: remove, path: /name/deep/deeper}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "remove at '/name/deep/deeper': pointer type error: deep: string indice",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: replace, path: /name, value: other}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "It changes name",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: move, from: /a, path: /a/b}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "move at '/a/b': can't move object to one of its own children (move:0)",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: explode, path: /}}]}"
        ),
        "spec.jsonPatches[0].operation.op: ",
        "The value is 'explode'",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: add, path: nope, value: 1}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "path must be a JSON pointer",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: test, path: /name, value: nope}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "test at '/name': test failed (test:0)",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: remove, jsonPath: '$..[?('}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "jsonPath '$..[?(' cannot be read: unexpected end of expression   -> '$",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: nowhere, operation: "
            "{op: remove, path: /name}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "There is no type.googleapis.com/envoy.config.listener.v3.Listener/nowh",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: add, path: /per_connection_buffer_limit_bytes, value: -1}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "The result is no Listener: Failed to parse per_connection_buffer_limit",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.cluster.v3.Cluster, name: x, operation: {op: add, "
            "path: '', value: {name: x, connect_timeout: 300y}}}]}"
        ),
        "spec.jsonPatches[0]: ",
        "The result is no Cluster: Failed to parse connect_timeout field: Durat",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: side}, jsonPatches: [{type: type.googleapis.com/google.protobuf.Any, "
            "name: x, operation: {op: remove, path: /name}}]}"
        ),
        "spec.jsonPatches[0].type: ",
        "The value is 'type.googleapis.com/google.protobuf.Any'",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "Gateway, name: nowhere}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: remove, path: /name}}]}"
        ),
        "spec.targetRef.name: ",
        "There is no Gateway broken/nowhere",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: "
            "HTTPRoute, name: other}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: remove, path: /name}}]}"
        ),
        "spec.targetRef: ",
        "The target is a HTTPRoute of group gateway.networking.k8s.io",
    ),
    (
        "EnvoyPatchPolicy",
        (
            "spec: {type: Lua, targetRef: {group: gateway.networking.k8s.io, kind: Gateway, "
            "name: side}, jsonPatches: [{type: "
            "type.googleapis.com/envoy.config.listener.v3.Listener, name: broken/side/http, "
            "operation: {op: remove, path: /name}}]}"
        ),
        "spec.type: ",
        "The value is 'Lua'",
    ),
    (
        "ServiceImport",
        "spec: {type: ClusterSetIP, ports: [{port: 0}]}",
        "spec.ports[0].port: ",
        "0 is out of range",
    ),
    ("ServiceImport", "spec: {ports: [{port: http}]}", "spec.ports[0].port: ", "The value is 'http'"),
    (
        "ServiceImport",
        "spec: {type: ClusterSetIP, ips: [7], ports: [{port: 1}]}",
        "spec.ips[0]: ",
        "The value is 7",
    ),
    ("Service", "spec: {ports: [{port: 70000}]}", "spec.ports[0].port: ", "70000 is out of range"),
    ("Service", "spec: {ports: {port: 80}}", "spec.ports: ", "The value is an object"),
    (
        "EndpointSlice",
        ("spec only\naddressType: IPv5\nendpoints: []\nports: []"),
        "addressType: ",
        "The value is 'IPv5'",
    ),
    (
        "EndpointSlice",
        ("spec only\naddressType: IPv4\nendpoints: [{addresses: ['a.b.c']}]\nports: [{port: 1}]"),
        "endpoints[0].addresses[0]: ",
        "'a.b.c' is not an IPv4 address",
    ),
    (
        "EndpointSlice",
        ("spec only\naddressType: IPv4\nendpoints: [{addresses: []}]\nports: [{port: -1}]"),
        "endpoints[0].addresses: ",
        "The list has 0 entries",
    ),
    ("ReferenceGrant", "spec: {from: [], to: []}", "spec.from: ", "The list has 0 entries"),
    (
        "ReferenceGrant",
        "spec: {from: [{group: a, kind: b}], to: [{group: '', kind: Secret}]}",
        "spec.from[0].namespace: ",
        "namespace is missing",
    ),
    ("Secret", ("spec only\ndata: {tls.crt: '%%%'}"), "data[tls.crt]: ", "The value is not base64"),
    (
        "Secret",
        ("spec only\ntype: kubernetes.io/tls\ndata: {tls.crt: c4n4ry, tls.key: c4n4ry}"),
        "data[tls.crt]: ",
        "The value is not base64: it must end with '=' until its length is a mu",
    ),
    ("Secret", ("spec only\nstringData: {a: [c4n4ry]}"), "stringData[a]: ", "The value is a list"),
    ("ConfigMap", ("spec only\ndata: {a: 7}"), "data[a]: ", "The value is a number"),
    ("ConfigMap", ("spec only\ndata: [c]"), "data: ", "The value is a list"),
    (
        "HTTPRouteFilter",
        "spec: {directResponse: {body: {type: Inline}}}",
        "spec.directResponse.body: ",
        "type Inline needs inline",
    ),
    (
        "HTTPRouteFilter",
        (
            "spec: {directResponse: {body: {type: ValueRef, valueRef: {group: '', kind: Secret, "
            "name: users}}}}"
        ),
        "spec.directResponse.body: ",
        "valueRef must name a ConfigMap",
    ),
    (
        "HTTPRouteFilter",
        "spec: {directResponse: {header: {remove: [a]}}}",
        "spec.directResponse.header: ",
        "A direct response has no header yet that remove could take away",
    ),
    (
        "HTTPRouteFilter",
        "spec: {urlRewrite: {path: {type: ReplaceRegexMatch}}}",
        "spec.urlRewrite.path: ",
        "type ReplaceRegexMatch needs replaceRegexMatch",
    ),
    (
        "HTTPRouteFilter",
        "spec: {urlRewrite: {hostname: {type: Header}}}",
        "spec.urlRewrite.hostname: ",
        "type Header needs header",
    ),
    (
        "HTTPRouteFilter",
        ('spec: {urlRewrite: {hostname: {type: PathRegex, pathRegex: {pattern: a, substitution: "a\\nb"}}}}'),
        "spec.urlRewrite.hostname.pathRegex.substitution: ",
        "The value is 'a\\nb'",
    ),
    (
        "HTTPRouteFilter",
        "spec: {matches: [{cookies: []}]}",
        "spec.matches[0].cookies: ",
        "The list has 0 entries",
    ),
    (
        "HTTPRouteFilter",
        "spec: {credentialInjection: {}}",
        "spec.credentialInjection.credential: ",
        "credential is missing",
    ),
    ("HTTPRouteFilter", "spec: {nothing: true}", "spec.nothing: ", "There is no field 'nothing' here"),
    (
        "Backend",
        "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 0}}]}",
        "spec.endpoints[0].ip.port: ",
        "The port is 0",
    ),
    (
        "Backend",
        "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 70000}}]}",
        "spec.endpoints[0].ip.port: ",
        "70000 is out of range",
    ),
    (
        "Backend",
        "spec: {endpoints: [{ip: {address: 999.0.0.1, port: 1}}]}",
        "spec.endpoints[0].ip.address: ",
        "The value is '999.0.0.1'",
    ),
    (
        "Backend",
        "spec: {endpoints: [{fqdn: {hostname: '10.0.0.1', port: 1}}]}",
        "spec.endpoints[0].fqdn: ",
        "'10.0.0.1' is an IP address",
    ),
    (
        "Backend",
        ("spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}, fqdn: {hostname: a.b, port: 1}}]}"),
        "spec.endpoints[0]: ",
        "An endpoint has exactly one of fqdn",
    ),
    (
        "Backend",
        (
            "spec: {endpoints: [{unix: {path: '/xxxxxxxxxxxxxxxxxxxxxxxxx"
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
            "xxxx'}}]}"
        ),
        "spec.endpoints[0].unix.path: ",
        "The path of a Unix domain socket has at most 108 characters",
    ),
    ("Backend", "spec: {endpoints: [{}]}", "spec.endpoints[0]: ", "An endpoint needs one of fqdn"),
    (
        "Backend",
        "spec: {type: DynamicResolver, endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}",
        "spec: ",
        "A Backend of type DynamicResolver takes its address from the request",
    ),
    (
        "Backend",
        (
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}], tls: {caCertificateRefs: "
            "[{group: '', kind: Secret, name: nowhere}]}}"
        ),
        "spec.tls.caCertificateRefs[0].name: ",
        "There is no Secret broken/nowhere",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], timeout: {tcp: {connectTimeout: 0.5s}}}"
        ),
        "spec.timeout.tcp.connectTimeout: ",
        "The value is '0.5s'",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], timeout: {http: {requestTimeout: 99999999999h}}}"
        ),
        "spec.timeout.http.requestTimeout: ",
        "The value is '99999999999h'",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], circuitBreaker: {maxConnections: -1}}"
        ),
        "spec.circuitBreaker.maxConnections: ",
        "-1 is out of range",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], circuitBreaker: {maxConnections: 99999999999}}"
        ),
        "spec.circuitBreaker.maxConnections: ",
        "99999999999 is out of range",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], retry: {numRetries: many}}"
        ),
        "spec.retry.numRetries: ",
        "The value is 'many'",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], faultInjection: {abort: {httpStatus: 500, percentage: 200}}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no HTTPRoute broken/nowhere",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], loadBalancer: {type: Dice}}"
        ),
        "spec.loadBalancer.type: ",
        "The value is 'Dice'",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], healthCheck: {panicThreshold: 200}}"
        ),
        "spec.healthCheck.panicThreshold: ",
        "200 is out of range",
    ),
    (
        "BackendTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], circuitBreaker: {maxConnections: 5}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no HTTPRoute broken/nowhere",
    ),
    (
        "BackendTrafficPolicy",
        "spec: {circuitBreaker: {maxConnections: 5}}",
        "spec: ",
        "Set exactly one of targetRef and targetRefs",
    ),
    (
        "ClientTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: "
            "nowhere}], timeout: {http: {idleTimeout: forever}}}"
        ),
        "spec.timeout.http.idleTimeout: ",
        "The value is 'forever'",
    ),
    (
        "ClientTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: "
            "nowhere}], connection: {connectionLimit: {value: -3}}}"
        ),
        "spec.connection.connectionLimit.value: ",
        "-3 is out of range",
    ),
    (
        "ClientTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: "
            "nowhere}], tls: {minVersion: '1.3', maxVersion: '1.0'}}"
        ),
        "spec.tls: ",
        "minVersion (1.2 when it is not set) must not be above maxVersion",
    ),
    (
        "ClientTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: "
            "nowhere}], http2: {initialStreamWindowSize: 1Ki}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no Gateway broken/nowhere",
    ),
    (
        "ClientTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: "
            "nowhere}], enableProxyProtocol: 'true'}"
        ),
        "spec.enableProxyProtocol: ",
        "The value is 'true'",
    ),
    (
        "ClientTrafficPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: "
            "nowhere}], clientIPDetection: {}}"
        ),
        "spec.clientIPDetection: ",
        "Set exactly one of xForwardedFor",
    ),
    (
        "SecurityPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], cors: {allowOrigins: ['no url']}}"
        ),
        "spec.cors.allowOrigins[0]: ",
        "The value is 'no url'",
    ),
    (
        "SecurityPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], jwt: {providers: []}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no HTTPRoute broken/nowhere",
    ),
    (
        "SecurityPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], authorization: {rules: [{action: Maybe, principal: {}}]}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no HTTPRoute broken/nowhere",
    ),
    (
        "SecurityPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], authorization: {rules: [{action: Allow, principal: {clientCIDRs: "
            "[10.0.0.0/99]}}]}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no HTTPRoute broken/nowhere",
    ),
    (
        "SecurityPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], basicAuth: {users: {name: nowhere, namespace: away}}}"
        ),
        "spec.basicAuth.users.name: ",
        "There is no Secret away/nowhere",
    ),
    (
        "SecurityPolicy",
        (
            "spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: "
            "nowhere}], extAuth: {}}"
        ),
        "spec.targetRefs[0].name: ",
        "There is no HTTPRoute broken/nowhere",
    ),
    ("EnvoyProxy", "spec: {concurrency: two}", "spec.concurrency: ", "The value is 'two'"),
    ("EnvoyProxy", "spec: {ipFamily: IPv5}", "spec.ipFamily: ", "The value is 'IPv5'"),
    (
        "EnvoyProxy",
        "spec: {filterOrder: [{name: envoy.filters.http.cors}]}",
        "spec.filterOrder[0]: ",
        "A filter is moved by one of before or after",
    ),
    (
        "EnvoyProxy",
        ("spec: {filterOrder: [{name: envoy.filters.http.magic, before: envoy.filters.http.cors}]}"),
        "spec.filterOrder[0].name: ",
        "The value is 'envoy.filters.http.magic'",
    ),
    (
        "EnvoyProxy",
        "spec: {mergeGateways: true, mergeBackends: {}}",
        "spec: ",
        "mergeGateways and mergeBackends exclude each other",
    ),
    (
        "EnvoyProxy",
        "spec: {logging: {level: {default: loud}}}",
        "spec.logging.level[default]: ",
        "The value is 'loud'",
    ),
    (
        "EnvoyProxy",
        "spec: {shutdown: {drainTimeout: 300y}}",
        "spec.shutdown.drainTimeout: ",
        "The value is '300y'",
    ),
    (
        "EnvoyProxy",
        "spec: {bootstrap: {type: Merge}}",
        "spec.bootstrap: ",
        "type JSONPatch needs jsonPatches",
    ),
    (
        "EnvoyProxy",
        "spec: {bootstrap: {type: JSONPatch, jsonPatches: []}}",
        "spec.bootstrap: ",
        "type JSONPatch needs jsonPatches",
    ),
    (
        "EnvoyProxy",
        "spec: {bootstrap: {type: Append, value: a}}",
        "spec.bootstrap.type: ",
        "The value is 'Append'",
    ),
    (
        "EnvoyProxy",
        "spec: {telemetry: {accessLog: {settings: []}}}",
        "spec.telemetry.accessLog.settings: ",
        "The list has 0 entries",
    ),
    (
        "EnvoyProxy",
        "spec: {telemetry: {accessLog: {settings: [{sinks: [{type: File}]}]}}}",
        "spec.telemetry.accessLog.settings[0].sinks[0]: ",
        "file must be set for type File",
    ),
    (
        "EnvoyProxy",
        ("spec: {telemetry: {accessLog: {settings: [{sinks: [{type: ALS, als: {type: HTTP}}]}]}}}"),
        "spec.telemetry.accessLog.settings[0].sinks[0].als: ",
        "backendRefs needs at least one backend",
    ),
    (
        "EnvoyProxy",
        (
            "spec: {telemetry: {accessLog: {settings: [{format: {type: Text, json: {a: b}}, "
            "sinks: [{type: File, file: {path: /dev/null}}]}]}}}"
        ),
        "spec.telemetry.accessLog.settings[0].format: ",
        "type Text needs text",
    ),
    (
        "EnvoyProxy",
        (
            "spec: {telemetry: {accessLog: {settings: [{sinks: [{type: OpenTelemetry, "
            "openTelemetry: {host: a.b, headers: [{name: 'a b', value: c4n4ry}]}}]}]}}}"
        ),
        "spec.telemetry.accessLog.settings[0].sinks[0].openTelemetry.headers[0].name: ",
        "The value is 'a b'",
    ),
    (
        "EnvoyProxy",
        ("spec: {telemetry: {tracing: {samplingRate: 200, provider: {type: Zipkin, host: a.b}}}}"),
        "spec.telemetry.tracing.samplingRate: ",
        "200 is out of range",
    ),
    (
        "EnvoyProxy",
        (
            "spec: {telemetry: {tracing: {samplingFraction: {numerator: 2, denominator: 1}, "
            "provider: {type: Zipkin, host: a.b}}}}"
        ),
        "spec.telemetry.tracing.samplingFraction: ",
        "The numerator is greater than the denominator",
    ),
    (
        "EnvoyProxy",
        (
            "spec: {telemetry: {tracing: {samplingFraction: {numerator: 0, denominator: 0}, "
            "provider: {type: Zipkin, host: a.b}}}}"
        ),
        "spec.telemetry.tracing.samplingFraction.denominator: ",
        "0 is out of range",
    ),
    (
        "EnvoyProxy",
        "spec: {telemetry: {tracing: {provider: {type: Jaeger, host: a.b}}}}",
        "spec.telemetry.tracing.provider.type: ",
        "The value is 'Jaeger'",
    ),
    (
        "EnvoyProxy",
        "spec: {telemetry: {tracing: {provider: {type: Zipkin}}}}",
        "spec.telemetry.tracing.provider: ",
        "Set host or backendRefs: without one of them nothing can be sent",
    ),
    (
        "EnvoyProxy",
        ("spec: {telemetry: {tracing: {provider: {type: Datadog, host: a.b, serviceName: ''}}}}"),
        "spec.telemetry.tracing.provider.serviceName: ",
        "serviceName is empty",
    ),
    (
        "EnvoyProxy",
        "spec: {telemetry: {metrics: {sinks: [{type: OpenTelemetry}]}}}",
        "spec.telemetry.metrics.sinks[0]: ",
        "openTelemetry must be set for type OpenTelemetry",
    ),
    (
        "EnvoyProxy",
        (
            "spec: {telemetry: {metrics: {sinks: [{type: OpenTelemetry, openTelemetry: {host: "
            "a.b, port: 70000}}]}}}"
        ),
        "spec.telemetry.metrics.sinks[0].openTelemetry.port: ",
        "70000 is out of range",
    ),
    (
        "EnvoyProxy",
        "spec: {telemetry: {metrics: {prometheus: {compression: {type: Zip}}}}}",
        "spec.telemetry.metrics.prometheus.compression.type: ",
        "The value is 'Zip'",
    ),
    ("", "a: b: c: [\n", "not YAML", "a second ':'"),
    ("", ("%YAML 9.9\n--- !!python/object:os.system {}\n"), "not YAML", "another version"),
    ("", "just text\n", "The document is a string"),
    ("", "[1, 2, 3]\n", "The document is a list"),
    (
        "HTTPRoute",
        ("apiVersion: v9\nkind: HTTPRoute\nmetadata: {name: '@NAME@'}\nspec: {}\n"),
        "apiVersion: ",
        "There is no kind HTTPRoute in 'v9'",
    ),
    (
        "",
        (
            "apiVersion: gateway.networking.k8s.io/v1\n"
            "kind: HTTPRoute\n"
            "metadata: {name: '@NAME@'}\n"
            "spec: {rules: [], rules: []}\n"
        ),
        "The key 'rules' stands twice",
    ),
    (
        "",
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '@NAME@', name: '@NAME@'}\n"),
        "The key 'name' stands twice",
    ),
    (
        "*ConfigMap default/Ünïcode",
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Ünïcode}\n"),
        "metadata.name: ",
        "The name is 'Ünïcode'",
    ),
    (
        f"*ConfigMap default/{'x' * 254}",
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {'x' * 254}}}\n",
        "metadata.name: ",
        "1 to 253 characters",
    ),
    ("", ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 7}\n"), "metadata.name: ", "The name is 7"),
    ("", ("apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n"), "The name is missing"),
    ("", ("apiVersion: v1\nkind: ConfigMap\n"), "metadata is missing"),
    (
        "ConfigMap",
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '@NAME@', labels: {a: [b]}}\n"),
        "metadata.labels[a]: ",
        "The value is a list",
    ),
    (
        "*ConfigMap Away_1/@NAME@",
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '@NAME@', namespace: Away_1}\n"),
        "metadata.namespace: ",
        "'Away_1'",
    ),
    (
        "*HTTPRoutes default/@NAME@",
        (
            "apiVersion: gateway.networking.k8s.io/v1\n"
            "kind: HTTPRoutes\n"
            "metadata: {name: '@NAME@'}\n"
            "spec: {}\n"
        ),
        "kind: ",
        "Did you mean 'HTTPRoute'?",
    ),
    ("", ("apiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: '@NAME@'}\n"), "kind is missing"),
    ("", ("apiVersion: [v1]\nkind: {a: b}\nmetadata: {name: '@NAME@'}\n"), "kind is missing"),
    ("", "\x00\x01\x02", "This is no text"),
    ("", "\ufeff\u202e", "The document is a string"),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {directResponse: {statusCode: 99}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: directResponse.statusCod",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {directResponse: {statusCode: 7000000000}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: directResponse.statusCod",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {urlRewrite: {path: {type: ReplaceRegexMatch, replaceRegexMatch: {pattern: "
            "'(', substitution: x}}}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: in urlRewrite.path",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {credentialInjection: {credential: {valueRef: {kind: ConfigMap, name: a}}}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: credentialInjection.cred",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {credentialInjection: {credential: {valueRef: {name: nowhere}}}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: its credential is in Sec",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {credentialInjection: {header: 'a b', credential: {valueRef: {name: users}}}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: credentialInjection.head",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {directResponse: {body: {type: ValueRef, valueRef: {group: '', kind: "
            "ConfigMap, name: nowhere}}}}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: its body is in ConfigMap",
    ),
    (
        "HTTPRoute",
        (
            "spec: {parentRefs: [{name: gateway, namespace: default, sectionName: http}], "
            "hostnames: [@NAME@.test], rules: [{filters: [{type: ExtensionRef, extensionRef: "
            "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: '@NAME@'}}], "
            "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: HTTPRouteFilter\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {matches: [{cookies: [{type: RegularExpression, name: a, value: '('}]}]}\n"
        ),
        "HTTPRouteFilter broken/@NAME@ cannot be used: in matches",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, hostname: '@NAME@.test', tls: {certificateRefs: [{name: certificate}]}}], "
            "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "
            "certificates.k8s.io, kind: ClusterTrustBundle, name: '@NAME@'}]}}}}}\n"
            "---\n"
            "apiVersion: certificates.k8s.io/v1beta1\n"
            "kind: ClusterTrustBundle\n"
            "metadata: {name: '@NAME@'}\n"
            "spec: {trustBundle: 'no pem'}\n"
        ),
        "spec.tls.frontend.default.validation.caCertificateRefs[0]: ",
        "ClusterTrustBundle @NAME@ holds no certificate in spec.trustBundle: it",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, hostname: '@NAME@.test', tls: {certificateRefs: [{name: certificate}]}}], "
            "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "
            "certificates.k8s.io, kind: ClusterTrustBundle, name: '@NAME@'}]}}}}}\n"
            "---\n"
            "apiVersion: certificates.k8s.io/v1beta1\n"
            "kind: ClusterTrustBundle\n"
            "metadata: {name: '@NAME@'}\n"
            "spec: {trustBundle: ''}\n"
        ),
        "spec.tls.frontend.default.validation.caCertificateRefs[0]: ",
        "ClusterTrustBundle @NAME@ holds no certificate in spec.trustBundle: it",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, hostname: '@NAME@.test', tls: {certificateRefs: [{name: certificate}]}}], "
            "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "
            "certificates.k8s.io, kind: ClusterTrustBundle, name: '@NAME@'}]}}}}}\n"
            "---\n"
            "apiVersion: certificates.k8s.io/v1beta1\n"
            "kind: ClusterTrustBundle\n"
            "metadata: {name: '@NAME@'}\n"
            'spec: {trustBundle: "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----"}\n'
        ),
        "spec.tls.frontend.default.validation.caCertificateRefs[0]: ",
        "ClusterTrustBundle @NAME@ holds something in block 1 of spec.trustBund",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: '@NAME@'}], "
            "validation: {hostname: a.b}}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: Backend\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}\n"
        ),
        "spec.validation: ",
        "Set caCertificateRefs or wellKnownCACertificates",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: '@NAME@'}], "
            "validation: {wellKnownCACertificates: System, hostname: '*.b'}}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: Backend\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}\n"
        ),
        "spec.validation.hostname: ",
        "The value is '*.b'",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: '@NAME@'}], "
            "validation: {wellKnownCACertificates: Mozilla, hostname: a.b}}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: Backend\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}\n"
        ),
        "spec.validation.wellKnownCACertificates: ",
        "The value is 'Mozilla'",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: '@NAME@'}], "
            "validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: nowhere}], "
            "hostname: a.b}}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: Backend\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}\n"
        ),
        "spec.validation.caCertificateRefs[0].name: ",
        "There is no ConfigMap broken/nowhere",
    ),
    (
        "BackendTLSPolicy",
        (
            "spec: {targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: '@NAME@'}], "
            "validation: {wellKnownCACertificates: System, caCertificateRefs: [{group: '', kind: "
            "ConfigMap, name: pages}], hostname: a.b}}\n"
            "---\n"
            "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
            "kind: Backend\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}\n"
        ),
        "spec.validation: ",
        "Set caCertificateRefs or wellKnownCACertificates",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, hostname: '@NAME@.test', tls: {certificateRefs: [{name: '@NAME@'}]}}]}\n"
            "---\n"
            "apiVersion: v1\n"
            "kind: Secret\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "type: kubernetes.io/tls\n"
            "stringData: {tls.crt: c4n4ry, tls.key: c4n4ry}\n"
        ),
        "No certificate can be served: tls.certificateRefs[0]: Secret broken/",
    ),
    (
        "Gateway",
        (
            "spec: {gatewayClassName: merged, listeners: [{name: a, port: @SPARE@, protocol: "
            "HTTPS, hostname: '@NAME@.test', tls: {certificateRefs: [{name: '@NAME@'}]}}]}\n"
            "---\n"
            "apiVersion: v1\n"
            "kind: Secret\n"
            "metadata: {name: '@NAME@', namespace: broken}\n"
            "type: kubernetes.io/tls\n"
            'stringData: {tls.crt: "-----BEGIN CERTIFICATE-----\\nc4n4ry\\n-----END '
            'CERTIFICATE-----", tls.key: c4n4ry}\n'
        ),
        "No certificate can be served: tls.certificateRefs[0]: Secret broken/",
    ),
    (
        "Backend",
        "spec: {endpoints: [{ip: {address: 127.0.0.1, port: @PORT@}}]}",
        "spec.endpoints[0].ip.port: ",
        "is where listener http of Gateway default/gateway listens",
    ),
)
"""Each with its kind, what stands after ``metadata`` or the whole file, and words of the message.

A kind with an asterisk is the whole name of the resource.
"""

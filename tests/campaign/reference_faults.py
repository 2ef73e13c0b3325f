"""Faults of references: to what does not exist, is of another kind, or is not permitted."""

from __future__ import annotations

from typing import Any

from tests.campaign.fault import GONE, MISSING, Fault, NotApplicable, Reading, more, swap

SHOP = "HTTPRoute default/shop"
STOCK = "HTTPRoute default/stock"
GUEST = "HTTPRoute default/guest"
PAGES = "HTTPRoute default/pages"
MEMBERS = "SecurityPolicy default/members"
LIMITS = "BackendTrafficPolicy default/limits"
CLIENTS = "ClientTrafficPolicy default/clients"
GATEWAY = "Gateway default/gateway"
SIDE = "Gateway default/side"

TWO = """\
    - group: gateway.envoyproxy.io
      kind: Backend
      name: two
"""

MIRROR = """\
    - type: RequestMirror
      requestMirror: {backendRef: {group: gateway.envoyproxy.io, kind: Backend, name: «none}}
"""


def wrong(
    name: str,
    file: str,
    *swaps: tuple[str, str],
    of: str,
    field: str,
    value: str | NotApplicable,
    right: str | NotApplicable,
    meanwhile: str | NotApplicable,
    severity: str = "error",
    requests: dict[str, int | str] | None = None,
    at: str = "",
    **more: Any,
) -> Fault:
    """A row in which a reference leads to something else; who holds it says so."""
    reading = Reading(
        at=at or file, of=of, field=field, value=value, right=right, meanwhile=meanwhile, severity=severity
    )
    return Fault(name=name, files=swap(file, *swaps), reads=(reading,), requests=requests or {}, **more)


FAULTS = (
    # --- from routes ---------------------------------------------------------------------------
    wrong(
        "a Backend that is misspelt is asked after by its right name",
        "shop.yaml",
        ("name: two", "name: «twos"),
        of=SHOP,
        field="spec.rules[0].backendRefs[0].name",
        value="Backend default/twos",
        right="'two'",
        meanwhile="500",
        requests={"shop": 500},
    ),
    wrong(
        "a Service that does not exist is named",
        "stock.yaml",
        ("- backendRefs: [{name: stock,", "- backendRefs: [{name: «stocks,"),
        of=STOCK,
        field="spec.rules[0].backendRefs[0].name",
        value="Service default/stocks",
        right="'stock'",
        meanwhile="500",
        requests={"stock": 500},
    ),
    wrong(
        "a port that a Service does not have is named with those that it has",
        "stock.yaml",
        ("- backendRefs: [{name: stock, port: 80}]", "- backendRefs: [«{name: stock, port: 81}]"),
        of=STOCK,
        field="spec.rules[0].backendRefs[0]",
        value="81",
        right="TCP port",
        meanwhile="500",
        requests={"stock": 500},
    ),
    wrong(
        "a reference to a Service has a port",
        "stock.yaml",
        ("- backendRefs: [{name: stock, port: 80}]", "- backendRefs: [«{name: stock}]"),
        of=STOCK,
        field="spec.rules[0].backendRefs[0]",
        value=MISSING,
        right="port",
        meanwhile="Its last good state stays in force.",
    ),
    wrong(
        "a Service without a slice has no endpoints",
        "stock.yaml",
        ("kubernetes.io/service-name: stock", "kubernetes.io/service-name: stack"),
        ("- backendRefs: [{name: ", "- backendRefs: [{name: «"),
        of=STOCK,
        field="spec.rules[0].backendRefs[0].name",
        value="Service default/stock",
        right="add an EndpointSlice with the label kubernetes.io/service-name: stock",
        meanwhile="503",
        severity="warning",
        exits=0,
        requests={"stock": 503},
    ),
    wrong(
        "a kind of backend that does not exist is named with those that do",
        "shop.yaml",
        (TWO, TWO.replace("- group", "- «group").replace("Backend", "Backends")),
        of=SHOP,
        field="spec.rules[0].backendRefs[0]",
        value="Backends",
        right="Backend",
        meanwhile="500",
        requests={"shop": 500},
    ),
    wrong(
        "a Backend of another namespace needs a grant",
        "away.yaml",
        ("kind: HTTPRoute, namespace: default", "kind: HTTPRoute, namespace: elsewhere"),
        of=GUEST,
        at="guest.yaml:9:7",
        field="spec.rules[0].backendRefs[0]",
        value="Backend away/far",
        right="ReferenceGrant in namespace away",
        meanwhile="500",
        requests={"guest": 500},
    ),
    wrong(
        "a grant for another kind grants nothing",
        "away.yaml",
        ("- {group: gateway.envoyproxy.io, kind: Backend}", '- {group: "", kind: Service}'),
        of=GUEST,
        at="guest.yaml:9:7",
        field="spec.rules[0].backendRefs[0]",
        value="Backend away/far",
        right="ReferenceGrant in namespace away",
        meanwhile="500",
        requests={"guest": 500},
    ),
    wrong(
        "a grant for another name grants nothing",
        "away.yaml",
        ("kind: Backend}", "kind: Backend, name: near}"),
        of=GUEST,
        at="guest.yaml:9:7",
        field="spec.rules[0].backendRefs[0]",
        value="Backend away/far",
        right="ReferenceGrant in namespace away",
        meanwhile="500",
        requests={"guest": 500},
    ),
    wrong(
        "a Gateway that is misspelt is asked after by its right name",
        "shop.yaml",
        ("- name: gateway", "- name: «gatewy"),
        of=SHOP,
        field="spec.parentRefs[0].name",
        value="Gateway default/gatewy",
        right="'gateway'",
        meanwhile="No request gets to this route",
        requests={"shop": 404},
    ),
    wrong(
        "a listener that does not exist is named with those that do",
        "shop.yaml",
        ("- name: gateway\n    sectionName: http", "- «name: gateway\n    sectionName: web"),
        of=SHOP,
        field="spec.parentRefs[0]",
        value="web",
        right="http",
        meanwhile="404",
        requests={"shop": 404},
    ),
    wrong(
        "a hostname that no listener serves is named",
        "secure.yaml",
        ("[{name: gateway, sectionName: https}]", "[«{name: gateway, sectionName: https}]"),
        ("[secure.test]", "[safe.test]"),
        of="HTTPRoute default/secure",
        field="spec.parentRefs[0]",
        value="hostname",
        right="listeners",
        meanwhile="404",
        requests={"secure": 404},
    ),
    wrong(
        "a filter that does not exist is asked after by its right name",
        "pages.yaml",
        ("kind: HTTPRouteFilter, name: closed}", "kind: HTTPRouteFilter, name: «close}"),
        of=PAGES,
        field="spec.rules[0].filters[0].extensionRef.name",
        value="HTTPRouteFilter default/close",
        right="Did you mean 'closed'?",
        meanwhile="500",
        requests={"pages": 500},
    ),
    wrong(
        "a filter of a kind that does not exist is named",
        "pages.yaml",
        (
            "- type: ExtensionRef\n      extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter",
            "- «type: ExtensionRef\n      extensionRef: {group: gateway.envoyproxy.io, kind: RouteFilter",
        ),
        of=PAGES,
        field="spec.rules[0].filters[0]",
        value="RouteFilter",
        right="HTTPRouteFilter",
        meanwhile="500",
        requests={"pages": 500},
    ),
    wrong(
        "a page that a ConfigMap does not have is named",
        "pages.yaml",
        ("kind: ConfigMap, name: pages}", "kind: ConfigMap, name: «sites}"),
        of="HTTPRouteFilter default/closed",
        field="spec.directResponse.body.valueRef.name",
        value="ConfigMap default/sites",
        right="which does not exist",
        meanwhile="500",
        requests={"pages": 500},
    ),
    Fault(
        name="a mirror to a Backend that does not exist costs the requests nothing",
        files=swap(
            "shop.yaml",
            (
                "    filters:\n",
                f"    filters:\n{MIRROR}",
            ),
        ),
        reads=(
            Reading(
                at="shop.yaml",
                of=SHOP,
                field="spec.rules[0].filters[0].requestMirror.backendRef.name",
                value="Backend default/none",
                meanwhile="served, but not copied",
                right="'one'",
            ),
        ),
    ),
    wrong(
        "a path of a Unix socket that is too long for Linux is measured",
        "backends.yaml",
        (
            "{name: two}\nspec:\n  endpoints:\n  - ip: {address: 127.0.0.1, port: @UPSTREAM@}",
            f"{{name: two}}\nspec:\n  endpoints:\n  - unix: {{path: «/{'a' * 107}}}",
        ),
        of="Backend default/two",
        field="spec.endpoints[0].unix.path",
        value="108 bytes",
        right="107 at most",
        meanwhile=NotApplicable("the route says it"),
        requests={"shop": 500},
    ),
    # --- from policies -------------------------------------------------------------------------
    wrong(
        "a target that is misspelt is asked after by its right name",
        "limits.yaml",
        ("name: shop", "name: «shopp"),
        of=LIMITS,
        field="spec.targetRefs[0].name",
        value="HTTPRoute default/shopp",
        right="'shop'",
        meanwhile="no effect",
    ),
    wrong(
        "a target of a SecurityPolicy that is misspelt is an error",
        "private.yaml",
        ("kind: HTTPRoute\n    name: private", "kind: HTTPRoute\n    name: «privat"),
        of=MEMBERS,
        field="spec.targetRefs[0].name",
        meanwhile="Nothing is guarded",
        value="HTTPRoute default/privat",
        right="'private'",
        requests={"private": 200},
    ),
    wrong(
        "a section of a target that does not exist is named",
        "clients.yaml",
        ("    name: gateway\n", "    name: gateway\n    sectionName: web\n"),
        ("  targetRefs:", "  «targetRefs:"),
        of=CLIENTS,
        field="spec.targetRefs",
        meanwhile="The policy has no effect there.",
        value="web",
        right="http",
    ),
    wrong(
        "a Secret of users that does not exist closes its route",
        "private.yaml",
        ("{users: {name: users}}", "{users: {name: «user}}"),
        of=MEMBERS,
        field="spec.basicAuth.users.name",
        value="Secret default/user",
        right="'users'",
        meanwhile="500",
        requests={"private": 500, "member": 500},
    ),
    wrong(
        "a Secret without the key of users closes its route",
        "users.yaml",
        (".htpasswd:", "htpasswd:"),
        at="private.yaml:17:22",
        of=MEMBERS,
        field="spec.basicAuth.users",
        value=".htpasswd",
        right="user:{SHA}",
        meanwhile="500",
        requests={"private": 500, "member": 500},
    ),
    wrong(
        "a Secret of users of another namespace needs a grant",
        "private.yaml",
        ("{users: {name: users}}", "{users: {name: «users, namespace: away}}"),
        of=MEMBERS,
        field="spec.basicAuth.users.name",
        value="Secret away/users",
        right="ReferenceGrant",
        meanwhile="500",
        requests={"private": 500, "member": 500},
    ),
    # --- from Gateways -------------------------------------------------------------------------
    wrong(
        "a class that does not exist is asked after by its right name",
        "side.yaml",
        ("gatewayClassName: aside", "gatewayClassName: «beside"),
        of=SIDE,
        field="spec.gatewayClassName",
        value="GatewayClass beside",
        right="'aside'",
        meanwhile="not served",
        requests={"side": "ConnectError"},
    ),
    wrong(
        "a class of another controller does not serve",
        "side.yaml",
        ("gatewayclass-controller", "another-controller"),
        ("gatewayClassName: aside", "gatewayClassName: «aside"),
        of=SIDE,
        field="spec.gatewayClassName",
        meanwhile="not served",
        value="another-controller",
        right="'gateway.envoyproxy.io/gatewayclass-controller'",
        requests={"side": "ConnectError"},
        severity="warning",
        exits=0,
    ),
    wrong(
        "parameters that do not exist are asked after by their right name",
        "side.yaml",
        ("kind: EnvoyProxy, name: proxy}", "kind: EnvoyProxy, name: «proxi}"),
        of=SIDE,
        field="spec.infrastructure.parametersRef.name",
        meanwhile="served as it was before",
        value="EnvoyProxy default/proxi",
        right="'proxy'",
        requests={"side": 200},
    ),
    wrong(
        "a certificate that does not exist is asked after by its right name",
        "gateway.yaml",
        ("[{name: certificate}]", "[{name: «certificates}]"),
        of=GATEWAY,
        field="spec.listeners[1].tls.certificateRefs[0].name",
        meanwhile="serves nothing",
        value="Secret default/certificates",
        right="'certificate'",
        requests={"secure": "ConnectError"},
    ),
    wrong(
        "a certificate of another namespace needs a grant",
        "gateway.yaml",
        ("[{name: certificate}]", "[{name: «certificate, namespace: away}]"),
        of=GATEWAY,
        field="spec.listeners[1].tls.certificateRefs[0].name",
        meanwhile="serves nothing",
        value="Secret away/certificate",
        right="ReferenceGrant in namespace away",
        requests={"secure": "ConnectError"},
    ),
    # --- what was there is gone ----------------------------------------------------------------
    Fault(
        name="a certificate whose file is removed is missed",
        files={"certificate.yaml": None},
        reads=(
            Reading(
                at="gateway.yaml:12:36",
                of=GATEWAY,
                field="spec.listeners[1].tls.certificateRefs[0].name",
                value="Secret default/certificate",
                right="The only Secret there is 'users'",
                meanwhile="serves nothing",
            ),
        ),
        requests={"secure": "ConnectError"},
    ),
    Fault(
        name="users whose file is removed are missed, and their route is closed",
        files={"users.yaml": None},
        reads=(
            Reading(
                at="private.yaml:17:29",
                of=MEMBERS,
                field="spec.basicAuth.users.name",
                value="Secret default/users",
                meanwhile="500",
                right="The only Secret there is 'certificate'",
            ),
        ),
        requests={"private": 500, "member": 500},
    ),
    Fault(
        name="a grant whose file is removed with its Backend is missed",
        files={"away.yaml": None},
        reads=(
            Reading(
                at="guest.yaml:9:59",
                of=GUEST,
                field="spec.rules[0].backendRefs[0].name",
                value="Backend away/far",
                meanwhile="500",
                right="ReferenceGrant in namespace away",
            ),
        ),
        requests={"guest": 500},
    ),
    Fault(
        name="a policy whose target is removed says so",
        files={"shop.yaml": None},
        reads=(
            Reading(
                at="limits.yaml:8:11",
                of=LIMITS,
                field="spec.targetRefs[0].name",
                value="HTTPRoute default/shop",
                meanwhile="no effect",
                right=GONE,
            ),
        ),
        requests={"shop": 404},
    ),
    # --- circles -------------------------------------------------------------------------------
    Fault(
        name="a Backend that is this gateway itself is a circle",
        files=more(
            "backends.yaml",
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {name: self}\n"
            "spec: {endpoints: [{ip: {address: 127.0.0.1, port: «@PORT@}}]}\n",
        ),
        reads=(
            Reading(
                at="backends.yaml",
                of="Backend default/self",
                field="spec.endpoints[0].ip.port",
                value="@PORT@",
                right="Name the port of the backend itself.",
                meanwhile="come back to it",
                severity="warning",
            ),
        ),
        exits=0,
    ),
)

"""Random worlds of routes, and random requests to them: ordinary ones, and all that a Host may look like.

Worlds are small, so that their hostnames meet: the same name stands in several routes, under wildcards of
several depths, and beside routes without any hostname. A seed makes the same world and the same requests
again.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.e2e import manifests as m

if TYPE_CHECKING:
    from random import Random

    from tests.e2e.certificates import Certificate

EXACT: Final = (
    *("shop.test", "a.shop.test", "b.shop.test", "a.b.shop.test", "c.a.b.shop.test", "x-1.shop.test"),
    *("other.test", "a.other.test", "xn--bcher-kva.shop.test", "1.shop.test"),
)
WILD: Final = ("*.test", "*.shop.test", "*.b.shop.test", "*.a.b.shop.test", "*.other.test")
BACKENDS: Final = ("one", "two", "three", "over-http2")
GATEWAY: Final = "site"
USER: Final = "ann"

PATHS: Final = ("/", "/a", "/a/", "/a/b", "/ab", "/A", "/a/b/c", "/b/1", "/c", "//a", "/a%2Fb", "/none")
QUERIES: Final = ("", "", "", "?q=1", "?q=2", "?q=1&q=2", "?other")
_PATH_MATCHES: Final = (
    *[{"type": "PathPrefix", "value": value} for value in ("/", "/", "/a", "/a/b", "/b")],
    *[{"type": "Exact", "value": value} for value in ("/a", "/a/b", "/c")],
    *[{"type": "RegularExpression", "value": value} for value in ("/[ab]/.*", "/b/[0-9]+", "/A?")],
)
_MORE_MATCHES: Final[tuple[dict[str, Any], ...]] = (
    {"headers": [{"name": "x-kind", "value": "odd"}]},
    {"headers": [{"name": "x-kind", "type": "RegularExpression", "value": "o.*"}]},
    {"headers": [{"name": "Host", "value": "a.shop.test"}]},
    {"headers": [{"name": "host", "type": "RegularExpression", "value": ".*[.]shop[.]test"}]},
    {"headers": [{"name": "Host", "type": "RegularExpression", "value": ".*:[0-9]+"}]},
    {"queryParams": [{"name": "q", "value": "1"}]},
    {"queryParams": [{"name": "q", "type": "RegularExpression", "value": "[12]"}]},
    *({"method": method} for method in ("GET", "POST", "OPTIONS", "HEAD")),
)

Documents = dict[str, m.Document]
"""By a key of its own each; a document that is replaced has the same key."""


class Ports(NamedTuple):
    """Where the listeners of all worlds are."""

    http: int
    other: int
    https: int


class Ask(NamedTuple):
    """One request.

    Args:
        kind: over which connection: ``http1``, ``http2``, ``upgrade`` (a WebSocket), ``raw`` (a connection
            of its own, which Envoy may close).
        port: where.
        tls: the name in the TLS handshake; "" for no TLS.
        method: as it is sent.
        target: the path, or all of the URL.
        host: ``:authority``, or the Host; ``None`` for none.
        headers: all others, in order.
        version: of HTTP/1.
        body: of HTTP/1.
    """

    kind: str
    port: int
    tls: str
    method: str
    target: str
    host: str | None
    headers: tuple[tuple[str, str], ...] = ()
    version: str = "1.1"
    body: str = ""


def htpasswd(user: str) -> str:
    """A line that lets a user pass whose password is the name."""
    return f"{user}:{{SHA}}{base64.b64encode(hashlib.sha1(user.encode()).digest()).decode()}\n"


def credentials(user: str, password: str) -> tuple[str, str]:
    return ("authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


class Worlds:
    """Random documents, one world after another.

    Args:
        chance: decides.
        ports: of the listeners.
        certificate: of the HTTPS listeners.
        neutral: whether no policy changes a listener, and Envoy refuses nothing.
    """

    def __init__(
        self, chance: Random, ports: Ports, certificate: Certificate, *, neutral: bool = False
    ) -> None:
        self._chance, self._ports, self._neutral = chance, ports, neutral
        self._certificate = certificate
        self._listeners: list[str] = []

    def world(self) -> Documents:
        """All but the backends."""
        documents = {
            "gateway": self._gateway(),
            "certificate": self._certificate.secret("certificate"),
            "users": m.secret("users", _htpasswd=htpasswd(USER)),
            "answer": m.http_route_filter(
                "answer",
                "directResponse: {statusCode: 418, contentType: text/plain, body: {inline: short and stout}}",
            ),
            "replace": m.http_route_filter(
                "replace",
                "urlRewrite: {path: {type: ReplaceRegexMatch,"
                r" replaceRegexMatch: {pattern: '^/(a|b)/', substitution: '/\1-'}}}",
            ),
        }
        for n in range(self._chance.randint(3, 9)):
            documents[f"route {n}"] = self.route(n)
        for n in range(self._chance.randint(0, 6)):
            documents[f"policy {n}"] = self.policy(n, documents)
        return documents

    def edited(self, documents: Documents) -> Documents:
        """The same world with one route or policy that came, went or changed."""
        routes = sum(key.startswith("route ") for key in documents)
        n = self._chance.randrange(10)
        key = f"route {n}" if self._chance.random() < 0.75 else f"policy {n % 6}"
        if key in documents and self._chance.random() < 0.3 and (routes > 3 or key.startswith("policy ")):
            return {each: document for each, document in documents.items() if each != key}
        new = self.route(n) if key.startswith("route ") else self.policy(n % 6, documents)
        # One that changes its kind would be another document beside the old one.
        if key in documents and documents[key]["kind"] != new["kind"]:
            return self.edited(documents)
        return documents | {key: new}

    def _gateway(self) -> m.Document:
        chance, listeners = self._chance, list[dict[str, Any]]()
        for protocol, port, most in (
            ("HTTP", self._ports.http, 4),
            ("HTTP", self._ports.other, 2),
            ("HTTPS", self._ports.https, 3),
        ):
            hostnames = chance.sample(("", "", "", *WILD, *EXACT[:3]), chance.randint(1, most))
            for n, hostname in enumerate(dict.fromkeys(hostnames)):
                listener: dict[str, Any] = {"name": f"p{port}-{n}", "port": port, "protocol": protocol}
                if hostname:
                    listener["hostname"] = hostname
                if protocol == "HTTPS":
                    listener["tls"] = {"certificateRefs": [{"name": "certificate"}]}
                listeners.append(listener)
        self._listeners = [each["name"] for each in listeners]
        return m.gateway(GATEWAY, json.dumps(listeners))

    def route(self, n: int) -> m.Document:
        chance = self._chance
        rules = [self._rule(n, k) for k in range(chance.choice((1, 1, 2, 3)))]
        parent = {"name": GATEWAY}
        if chance.random() < 0.3:
            parent["sectionName"] = chance.choice([*self._listeners, "nobody"])
        document = m.route(f"r{n}", json.dumps(rules), parents=json.dumps([parent]))
        few = chance.choices((0, 1, 2, 3), (3, 6, 4, 2))[0]
        document["spec"]["hostnames"] = chance.sample((*EXACT, *WILD, *WILD), few)
        document["spec"]["hostnames"] = list(dict.fromkeys(document["spec"]["hostnames"]))
        return document

    def _rule(self, route: int, n: int) -> dict[str, Any]:
        chance = self._chance
        matches: list[dict[str, Any]] = []
        for _ in range(chance.choice((1, 1, 2))):
            match: dict[str, Any] = {"path": chance.choice(_PATH_MATCHES)}
            if chance.random() < 0.35:
                more = chance.choice(_MORE_MATCHES)
                # An edit could bring a match on the Host, and requests are chosen before.
                match |= {} if self._neutral and _looks_at_host(more) else more
            matches.append(match)
        if chance.random() < 0.35:
            matches = []
        rule: dict[str, Any] = {"name": f"rule-{n}", "matches": matches}
        redirects = False
        if chance.random() < 0.5:
            filters, redirects = self._filters(route, n)
            rule["filters"] = filters
        if not redirects:
            name = chance.choices((*BACKENDS, "nobody"), (4, 3, 3, 2, 1))[0]
            rule["backendRefs"] = [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": name}]
        return rule

    def _filters(self, route: int, n: int) -> tuple[list[dict[str, Any]], bool]:
        """Filters of a rule, and whether it needs no backend."""
        chance, which = self._chance, f"r{route}-{n}"
        match chance.randrange(9 if self._neutral else 10):
            case 0:
                redirect = chance.choice(
                    (
                        {"hostname": "else.test"},
                        {"scheme": "https"},
                        {"port": 8443, "statusCode": 301},
                        {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/moved"}},
                    )
                )
                return [{"type": "RequestRedirect", "requestRedirect": redirect}], True
            case 1:
                rewrite: dict[str, Any] = {"hostname": "inside.test"}
                if chance.random() < 0.5:
                    rewrite["path"] = {"type": "ReplaceFullPath", "replaceFullPath": "/rewritten"}
                return [{"type": "URLRewrite", "urlRewrite": rewrite}], False
            case 2 | 3:
                change = {
                    "set": [{"name": "x-route", "value": which}],
                    "add": [{"name": "x-kind", "value": "added"}],
                    "remove": ["x-gone"],
                }
                return [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}], False
            case 4 | 5:
                value = chance.choice((which, "%REQ(:AUTHORITY)%", "%PROTOCOL% %ROUTE_NAME%"))
                change = {"set": [{"name": "x-route", "value": value}]}
                return [{"type": "ResponseHeaderModifier", "responseHeaderModifier": change}], False
            case 6 | 7:
                name = chance.choice(("answer", "answer", "replace", "missing"))
                ref = {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": name}
                return [{"type": "ExtensionRef", "extensionRef": ref}], False
            case 8:
                cors = {"allowOrigins": ["https://a.test"], "allowMethods": ["PUT"], "maxAge": 7}
                return [{"type": "CORS", "cors": cors}], False
            case _:
                # Only Envoy knows that it cannot be, and refuses it.
                change = {"set": [{"name": "x-route", "value": "%NOPE%"}]}
                return [{"type": "ResponseHeaderModifier", "responseHeaderModifier": change}], False

    def policy(self, n: int, documents: Documents) -> m.Document:
        """A policy; its kind follows from its number, so that one which is replaced is replaced."""
        chance = self._chance
        routes = sorted(key.removeprefix("route ") for key in documents if key.startswith("route "))
        target = f"HTTPRoute/r{chance.choice(routes)}"
        if chance.random() < 0.3:
            target = chance.choice((f"Gateway/{GATEWAY}", f"{target}/rule-0"))
        if n % 3 == 2:
            body = chance.choice(
                (
                    "faultInjection: {abort: {httpStatus: 418, percentage: 100}}",
                    "faultInjection: {abort: {httpStatus: 503, percentage: 0}}",
                    "timeout: {http: {requestTimeout: 17s}}",
                    "faultInjection: {abort: {httpStatus: 600}}",
                )
            )
            return m.policy("BackendTrafficPolicy", f"p{n}", body, target)
        header = "" if self._neutral else chance.choice((", forwardUsernameHeader: x-user", ""))
        cors = "cors: {allowOrigins: ['https://*.test'], allowMethods: [GET, PUT], exposeHeaders: [x-route]}"
        body = chance.choice(
            (
                f"basicAuth: {{users: {{name: users}}{header}}}",
                f"basicAuth: {{users: {{name: users}}{header}}}",
                f"basicAuth: {{users: {{name: missing}}{header}}}",
                cors,
                f"{{{cors}, basicAuth: {{users: {{name: users}}}}}}",
            )
        )
        return m.policy("SecurityPolicy", f"p{n}", body, target)


_PORTS_IN_HOSTS: Final = (":80", ":1", ":65536", ":", ":abc", ":80:80", "::", ":-1", ":0x50")
_ODD_HOSTS: Final[tuple[str | None, ...]] = (
    *(None, "", "*", "_", ".", "..", "test", "*.shop.test", "<others>", "%3Cothers%3E", "*.test:80"),
    *(
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:80",
        "[::ffff:127.0.0.1]",
        "::1",
        "[::1",
        "[fe80::1%25lo]",
    ),
    *(
        "localhost",
        ":80",
        ":",
        "shop.test.",
        "a.shop.test.:80",
        ".shop.test",
        "a..shop.test",
        "a.shop.test..test",
    ),
    *("a_b.shop.test", "a b.shop.test", "ann@a.shop.test", "a.shop.test/b", "a.shop.test?q", "a.shop.test#f"),
    *("a,b.shop.test", "a.shop.test, b.shop.test", "b\u00fccher.shop.test", "-.shop.test", "a.shop.test\\"),
    *(f"{'a' * 64}.shop.test", f"{'b.' * 130}shop.test", f"{'c' * 5000}.shop.test", "x" * 20_000),
)
_CLOSING: Final = frozenset("<>@# ,\\?/\u00fc")
"""Characters for which Envoy closes a connection of HTTP/2."""
_HEADERS: Final[tuple[tuple[tuple[str, str], ...], ...]] = (
    *[()] * 8,
    (("x-kind", "odd"), ("x-gone", "1")),
    (("x-kind", "even"),),
    (("origin", "https://a.test"),),
    (("origin", "https://evil.example"),),
    (("origin", "https://a.test"), ("access-control-request-method", "PUT")),
    (("x-moongate-host", "a.shop.test"),),
    (("x-moongate-host", ""), ("x-moongate-host", "*")),
    (("x-forwarded-host", "a.shop.test"), ("x-forwarded-proto", "https"), ("x-forwarded-for", "9.9.9.9")),
    (("x-envoy-original-host", "a.shop.test"), ("x-user", "root")),
    (("content-type", "application/grpc"), ("te", "trailers")),
)
_CREDENTIALS: Final = (
    (),
    (credentials(USER, USER),),
    (credentials(USER, "wrong"),),
    (credentials("bob", USER),),
)

_WEBSOCKET: Final = (("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="))


def _matches_hosts(world: Documents) -> bool:
    """Whether a rule matches on the Host as on any other header."""
    rules = (rule for document in world.values() for rule in document.get("spec", {}).get("rules", ()))
    matches = (match for rule in rules for match in rule["matches"])
    return any(map(_looks_at_host, matches))


def _looks_at_host(match: dict[str, Any]) -> bool:
    return any(each["name"].lower() == "host" for each in match.get("headers", ()))


class Requests:
    """Random requests to the worlds of some ports."""

    def __init__(self, chance: Random, ports: Ports) -> None:
        self._chance, self._ports = chance, ports
        self._names: list[str] = []
        self._matched = False

    def ask(self, world: Documents) -> Ask:
        """One request; most are for a name that a route of the world has."""
        chance, ports = self._chance, self._ports
        port = chance.choices(ports, (6, 2, 2))[0]
        self._names = [name for each in world.values() for name in each.get("spec", {}).get("hostnames", [])]
        self._matched = _matches_hosts(world)
        host = self._host()
        kind = chance.choices(("http1", "http2", "upgrade", "raw"), (10, 5, 1, 2))[0]
        if kind == "http2" and not set(host or "<").isdisjoint(_CLOSING) and chance.random() < 0.98:
            # Envoy waits for a second before it closes the connection.
            kind = "raw"
        tls = ""
        if port == ports.https:
            # Envoy takes only connections for names of listeners; not all of them are for the Host.
            listeners = world["gateway"]["spec"]["listeners"]
            served = [each.get("hostname", "no.example") for each in listeners if each["port"] == port]
            tls = host if host in EXACT and chance.random() < 0.4 else self._under(chance.choice(served))
        method = chance.choices(("GET", "POST", "OPTIONS", "HEAD", "PUT"), (12, 2, 3, 1, 1))[0]
        target = chance.choice(PATHS) + chance.choice(QUERIES)
        headers = (*chance.choice(_HEADERS), *chance.choices(_CREDENTIALS, (5, 5, 1, 1))[0])
        asked = Ask(kind, port, tls, method, target, host, headers)
        match kind:
            case "http1" if method == "POST":
                return asked._replace(body="hello")
            case "upgrade":
                more = (("upgrade", "websocket"), ("connection", "Upgrade"))
                return asked._replace(method="GET", headers=(*headers, *more, *_WEBSOCKET))
            case "raw":
                return self._raw(asked)
            case _:
                return asked

    def _raw(self, asked: Ask) -> Ask:
        chance = self._chance
        match chance.randrange(5):
            case 0:
                return asked._replace(version="1.0")
            case 1:
                return asked._replace(version="1.0", host=None)
            case 2:
                # The host of the target counts, and not the header.
                scheme = chance.choice(("http", "https", "HTTP", "ws", "ftp"))
                target = f"{scheme}://{self._host() or ''}{asked.target}"
                return asked._replace(target=target, host=chance.choice((asked.host, "b.shop.test", None)))
            case 3:
                return asked._replace(method="OPTIONS", target="*")
            case _:
                second = ("host", chance.choice(EXACT))
                return asked._replace(headers=(*asked.headers, second))

    def _host(self) -> str | None:
        chance = self._chance
        if chance.random() < 0.15:
            return chance.choice(_ODD_HOSTS)
        name = chance.choice((*EXACT, *WILD, "*.nowhere.example"))
        if self._names and chance.random() < 0.7:
            name = chance.choice(self._names)
        host = self._under(name)
        match chance.randrange(10):
            case 0 | 1 | 2 if self._matched:
                pass  # a scoped table compares it in lower case, one table as it was sent
            case 0 | 1:
                host = "".join(letter.upper() if chance.random() < 0.5 else letter for letter in host)
            case 2:
                host = host.upper()
            case 3:
                host += chance.choice((".", "..", ".:80"))
            case _:
                pass
        if chance.random() < 0.25:
            host += chance.choice((f":{self._ports.http}", *_PORTS_IN_HOSTS))
        return host

    def _under(self, name: str) -> str:
        """A name itself, or one under a wildcard."""
        labels = self._chance.choice(("z", "z", "deep.er", "a", "a.b.c.d"))
        return name if not name.startswith("*.") else f"{labels}{name.removeprefix('*')}"

"""Write pages of ``docs/reference`` from what the code says of itself: ``features.md``, ``configuration.md``, ``seen-to-work.md``.

What is built, what is not, who wins, and what tests see stands once, at the code; so no page can promise what is not there.
"""

# The lines of a page are sentences, however long.
# ruff: noqa: E501

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import structs

from moongate import features
from moongate.api.backend import Backend
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway
from moongate.api.grpcroute import GRPCRoute
from moongate.api.httproute import HTTPRoute
from moongate.features import FEATURES
from moongate.features.base import Feature
from moongate.kinds import READ, UNBUILT_KINDS
from moongate.policies import POLICY_KINDS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script has only its own folder there

from tests import field_proofs  # noqa: E402 - see above

REFERENCE = ROOT / "docs" / "reference"
SOURCES = "../../src/moongate/features"
MODULES: dict[Feature[Any], ModuleType] = {
    feature: module
    for module in vars(features).values()
    if isinstance(module, ModuleType)
    for feature in FEATURES
    if feature in vars(module).values() or feature in vars(module).get("FEATURES", ())
}


def main() -> None:
    texts = pages()
    changed = {name for name, text in texts.items() if not _same(REFERENCE / name, text)}
    for name in changed:
        (REFERENCE / name).write_text(texts[name], encoding="utf-8")
    print(f"reference: {len(texts)} pages, {len(changed)} changed")


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {
        "features.md": "\n".join(_features()),
        "configuration.md": "\n".join(_configuration()),
        "seen-to-work.md": "\n".join(_proofs()),
    }


def _features() -> Iterator[str]:
    yield "# What is built"
    yield ""
    yield "Generated from the code by `tools/gen_reference.py`."
    yield "Each field of a policy has a page with examples and the xDS that they become; the pages are tests, too."
    yield "[Which fields are seen to work](seen-to-work.md) names the tests that see the effect of a field through a real Envoy."
    for kind in POLICY_KINDS:
        yield f"\n## {kind.KIND}\n"
        yield "| field | what it is for | who wins |"
        yield "|---|---|---|"
        yield from dict.fromkeys(_row(feature) for feature in FEATURES if feature.kind == kind.KIND)
        if unbuilt := _unbuilt(_spec(kind)):
            yield f"\nNot built yet: {_listed(unbuilt)}."
            yield _UNENFORCED
    yield "\n## Rules of routes\n"
    yield "What only a rule can set has a page as well:\n"
    yield "| set by | what it is for | who wins |"
    yield "|---|---|---|"
    for feature in FEATURES:
        if not feature.kind:
            yield _row(feature)
    yield "\n## Gateway API and Backend\n"
    yield "Fields that are accepted and not built yet:\n"
    for kind in (Gateway, HTTPRoute, GRPCRoute, Backend):
        yield f"- {kind.KIND}: {_listed(_unbuilt(_spec(kind))) or 'none'}"
    yield "\n## Kinds that are read\n"
    yield f"{_listed(kind.KIND for kind in READ)}; and the file [EnvoyGateway](configuration.md)."
    yield "\n## Kinds that are not built yet\n"
    yield f"{_listed(sorted(kind for _, kind in UNBUILT_KINDS))}."
    yield "A resource of such a kind has no effect, and a warning says so."
    yield "Other kinds, such as Deployments, are ignored, because a gateway does not read them.\n"


def _proofs() -> Iterator[str]:
    yield "# Which fields are seen to work"
    yield ""
    yield "Generated from the tests by `tools/gen_reference.py`."
    yield "For each field of the traffic policies: the tests that see its effect from outside, as a client or as a backend of a real Envoy."
    yield "Where nothing can be seen, it says why, and what checks that or the xDS that is sent."
    for kind in field_proofs.KINDS:
        seen, unseen = field_proofs.proofs(kind), field_proofs.unseen(kind)
        yield f"\n## {kind}\n"
        yield "| field | seen by |"
        yield "|---|---|"
        for path in field_proofs.fields(kind):
            if path in unseen:
                reason, test = unseen[path]
                yield f"| `{path}` | {reason} Checked by: {_test(test)}. |"
            else:
                yield f"| `{path}` | {', '.join(map(_test, seen.get(path, ()))) or 'nobody yet'} |"
    yield ""


def _test(test: str) -> str:
    """A link to a test, or to a page of cases."""
    file, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ') or Path(file).name}](../../{file})"


_UNENFORCED = (
    "A policy that sets one of them is not accepted, and its routes answer 500: "
    "a check that is not made must not look like one."
)


def _row(feature: Feature[Any]) -> str:
    module = MODULES[feature]
    head, _, rest = (module.__doc__ or "").partition("\n\n")
    facts = _facts(rest)
    name = module.__name__.rpartition(".")[2]
    field = {
        f.name: f.encode_name
        for k in POLICY_KINDS
        if feature.kind == k.KIND
        for f in structs.fields(_spec(k))
    }
    own, _, where = facts["Set by"].replace("``", "`").partition(";")
    purpose = " ".join(head.split()).replace("``", "`") + (f" Also: {where.strip()}." if where else "")
    wins = facts["Precedence"].replace("``", "`")
    if not feature.kind:
        return f"| [{own}]({SOURCES}/{name}.md) | {purpose} | {wins} |"
    return f"| [`{field[feature.field]}`]({SOURCES}/{name}.md) | {purpose} | {wins} |"


def _facts(text: str) -> dict[str, str]:
    """``Set by:`` and what else a feature's head says, each in one line."""
    facts: dict[str, str] = {}
    key = ""
    for line in text.partition("\n\n")[0].splitlines():
        name, colon, rest = line.partition(":")
        if colon and name and not name.startswith(" ") and name.replace(" ", "").isalpha():
            key = name
            facts[key] = rest.strip()
        elif key:
            facts[key] += f" {line.strip()}"
    return facts


def _configuration() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "Generated from the code by `tools/gen_reference.py`."
    yield "Two kinds say how moongate and Envoy run; the names and meanings of their fields are Envoy Gateway's."
    yield "\n## EnvoyGateway\n"
    yield "A file, given with `--config` or lying among the manifests; not a resource of a cluster."
    yield "Without one, moongate runs with [its own](../how-to/move-from-envoy-gateway-standalone.md#2-decide-about-your-own-configuration).\n"
    yield "| field | what it does |"
    yield "|---|---|"
    for path, meaning in _GATEWAY.items():
        yield f"| `{path}` | {meaning} |"
    yield f"\nAccepted and without effect so far: {_listed([*_own(_unbuilt(EnvoyGateway)), *_GATEWAY_IDLE])}."
    yield "Do not wait for a message about them: a configuration that is given with `--config` gets none.\n"
    yield "## EnvoyProxy\n"
    yield (
        "A resource that a GatewayClass (`parametersRef`) or a Gateway (`infrastructure.parametersRef`) names; "
        "`envoyProxy` of the EnvoyGateway is the level below both."
    )
    yield "The higher level replaces the lower as a whole, unless its `mergeType` says otherwise; `mergeBackends` is inherited in any case, unless the class has `mergeGateways`."
    yield "While a class names an EnvoyProxy that is not there, its Gateways are served as before, and share their Envoys if they did."
    yield "moongate knows that as long as it runs: if it is started meanwhile, these Gateways are new to it and are not served.\n"
    yield "| field | what it does |"
    yield "|---|---|"
    for path, meaning in _PROXY.items():
        yield f"| `{path}` | {meaning} |"
    yield f"\nAccepted and not built yet, so without effect: {_listed(_once(_unbuilt(_spec(EnvoyProxy))))}."
    yield "A warning names those of them that are set.\n"
    yield f"Without effect, and nothing says so: {_listed(_PROXY_IDLE)}.\n"
    yield "An EnvoyProxy that cannot be used is reported in the status of the resources that name it, and what ran before goes on.\n"


_GATEWAY = {
    "gateway.controllerName": "Which GatewayClasses are served. The class `moongate`, which every laptop has, names the default.",
    "extensionApis.enableBackend": "Whether Backends may be used.",
    "extensionApis.enableEnvoyPatchPolicy": (
        "Whether [EnvoyPatchPolicies](../how-to/patch-what-envoy-gets.md) may be used."
    ),
    "extensionApis.enableSDSSecretRef": (
        "Whether Secrets may stand for [those of another server](../how-to/tls-to-a-backend.md#certificates-of-another-server)."
    ),
    "runtimeFlags": "`XDSNameSchemeV2` names listeners after ports (`tcp-8080`); `PerResourceSystemCASecret` gives each resource that trusts the system's authorities a secret of its own. Eight flags are moongate's own: `StableFilterChains` keeps HTTP filters in every chain, `MetadataWhereRead` leaves metadata out where nothing reads it, `ScopedLargeTables` gives each hostname [a table of its own](../explanation/scoped-tables.md) on listeners with 500 exact hostnames and more and no wildcards, `ScopedTables` does that on all listeners, `DynamicResolverLocalAddresses` lets clients reach [the gateway's own machine](../how-to/send-requests-where-they-ask.md) by Backends of type DynamicResolver, `MisdirectedRequests` answers [421](../how-to/several-certificates-by-sni.md) to requests on a connection that was opened for another listener, `EndpointsByTLS` gives endpoints with TLS [a name that tells how it is spoken](differences.md#endpoints-with-tls-have-a-name-that-tells-how-tls-is-spoken-in-the-configuration-that-moongate-ships), and `DrainOnClientCAs` drains connections of clients when the [authorities](../how-to/client-certificates.md#other-authorities) of their certificates change. The other flags change nothing. `XDSNameSchemeV2` and `StableFilterChains` hold from the start of moongate: of a change in a file that is followed, the log and `moongate status` say that it waits for the next start, and the rest of the configuration is in force.",
    "rateLimit": "The service that counts for [global limits](../../src/moongate/features/rate_limit.md): `backend.type` is `Redis`, or `Memory`, which is moongate's own, the value of a configuration that is not given, and counts in the memory of a process of its own. `timeout` is how long a request waits for it, Envoy's 20 ms when absent, or 1 s where moongate's own service counts. With `failClosed` a request gets 500 while it does not answer; otherwise it passes. Without `rateLimit`, global limits are refused.",
    "envoyProxy": "The EnvoyProxy below those of classes and Gateways.",
    "provider": "Ignored: manifests are named on the command line, and Envoy runs on this host.",
}
_GATEWAY_IDLE = (
    "logging",
    "extensionApis.enableLua",
)
_PROXY = {
    "bootstrap": "[Changes of what Envoy is started with](../how-to/change-the-bootstrap.md): merged, patched, or as a "
    "whole. A change starts another Envoy.",
    "concurrency": "Worker threads of Envoy. Read when Envoy starts; the log says that a change waits for it.",
    "extraArgs": "More arguments for Envoy. Read when Envoy starts; the log says that a change waits for it. "
    "Arguments that it does not take are named by the status of the Gateway, and an Envoy that has served "
    "starts with the former ones; a new one does not start, and the next change is tried at once.",
    "logging.level": "Levels by component of Envoy, and `default`; a change holds at once.",
    "ipFamily": "`IPv6` and `DualStack` listen on `::`, what is not set on `0.0.0.0`; on a laptop, unless "
    "`--bind 0.0.0.0` opens it, on loopback of the same family.",
    "mergeBackends": "One cluster per backend, for all rules that use it; `selector` says for which backends.",
    "backendTLS": "How TLS is spoken to backends that have it, and the certificate that they are shown, where "
    "a Backend does not say; `tls.backend` of a Gateway goes before all of it. It turns TLS on for none.",
    "mergeType": "How a level is laid over the one below.",
    "preserveRouteOrder": "Routes stay in the order of the manifests, instead of the most specific first.",
    "routingType": "`Service` sends to cluster IPs, instead of endpoints.",
    "shutdown.drainTimeout": "How long open connections live on when their listener was changed or deleted, 60 s "
    "when absent; longer ones, such as WebSockets, are cut then. Read when Envoy starts; the log says that a "
    "change waits for it. When Envoy is to end, requests in flight are waited for as long, 5 s when absent.",
    "filterOrder": "[HTTP filters](../how-to/order-of-filters.md) in another order than the usual one.",
    "telemetry.accessLog": "[Access logs](../how-to/access-logs.md): formats, CEL filters, and sinks: files, "
    "OpenTelemetry, ALS.",
    "telemetry.tracing": "[Spans](../how-to/trace-requests.md) for OpenTelemetry, Zipkin or Datadog.",
    "telemetry.requestID": "Whether the decision to trace a request is in its id.",
    "telemetry.metrics": "[Statistics](../how-to/send-metrics.md): which, under which names, and for whom. A change "
    "of `sinks` or `matches` starts another Envoy.",
}
_PROXY_IDLE = ("shutdown.minDrainDuration", "shutdown.healthCheckFailureDelay")


def _own(paths: list[str]) -> list[str]:
    """Those that stand nowhere else on the page."""
    return [path for path in paths if not path.startswith(("envoyProxy.", "provider."))]


def _once(paths: list[str]) -> list[str]:
    """The settings of clusters once, and not for each sink that has them."""
    shared = "backendSettings."
    return [*dict.fromkeys(path[path.find(shared) :] if shared in path else path for path in paths)]


def _spec(kind: Any) -> Any:
    return next(f.type for f in structs.fields(kind) if f.name == "spec")


def _unbuilt(model: Any, path: str = "", seen: tuple[Any, ...] = ()) -> list[str]:
    """Wire paths of fields that are declared and not built, below a Struct."""
    paths: list[str] = []
    for field in structs.fields(model):
        here = f"{path}{field.encode_name}"
        if any((m.extra or {}).get("unbuilt") for m in _metas(field.type)):
            paths.append(here)
        else:
            for below, many in _structs(field.type):
                if below not in seen:
                    paths += _unbuilt(below, f"{here}{'[]' if many else ''}.", (*seen, model))
    return paths


def _metas(annotation: Any) -> Iterator[msgspec.Meta]:
    yield from (m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, msgspec.Meta))
    for inner in get_args(annotation):
        if hasattr(inner, "__metadata__"):
            yield from _metas(inner)


def _structs(annotation: Any, *, many: bool = False) -> Iterator[tuple[Any, bool]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation, many
        return
    for inner in get_args(annotation):
        yield from _structs(inner, many=many or get_origin(annotation) in (tuple, dict))


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()

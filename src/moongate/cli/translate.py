"""``moongate translate``: print the statuses and the xDS resources of manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from moongate.cli.manifests import Config, Namespace, Paths, statuses, translated
from moongate.cli.printing import Output, say, say_document
from moongate.cli.usage_errors import REFUSED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.world import World
    from moongate.xds.wire import XdsResource

Of = Literal["all", "listeners", "routes", "clusters", "endpoints", "secrets", "status"]


def translate(
    paths: Paths,
    /,
    *,
    of: Annotated[Of, Parameter(help="Which part to print.")] = "all",
    output: Annotated[Output, Parameter(name=["--output", "-o"], help="How to print it.")] = "yaml",
    config: Config = None,
    namespace: Namespace = "default",
) -> int:
    """Print the statuses and xDS resources of manifests, without starting Envoy.

    xDS resources are grouped by fleet, that is, by Gateway. Private keys and
    passwords are shown as [redacted]. Problems go to standard error, one per
    line, as FILE:LINE:COLUMN: RESOURCE: FIELD: message.

    For example, a folder; only its routes; the resources of a cluster:

        moongate translate shop/
        moongate translate shop/ --of routes -o json
        kubectl get -A -o yaml gtw,httproutes,svc | moongate translate -

    Exits 0 when everything was accepted, 1 when something was not, 2 on bad usage.
    """
    translation = translated(paths, config=config, namespace=namespace)
    say_document(_selected(translation.world, of), output)
    for diagnostic in translation.diagnostics:
        say(str(diagnostic), stderr=True)
    return REFUSED if translation.errors else 0


def _selected(world: World, of: Of) -> Any:
    if of == "status":
        return statuses(world)
    if of == "all":
        return {"xds": {fleet: _fleet(types) for fleet, types in _xds(world)}, "status": statuses(world)}
    return {fleet: _fleet(types)[of] for fleet, types in _xds(world)}


def _xds(world: World) -> list[tuple[str, Mapping[str, Mapping[str, XdsResource]]]]:
    return sorted(world.xds().items())


def _fleet(types: Mapping[str, Mapping[str, XdsResource]]) -> dict[str, list[Any]]:
    from moongate.cli.redaction import redacted
    from moongate.message_documents import as_document
    from moongate.xds.messages import message
    from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET

    urls = {
        "listeners": LISTENER,
        "routes": ROUTE,
        "scopedRoutes": SCOPE,
        "clusters": CLUSTER,
        "endpoints": ENDPOINT,
        "secrets": SECRET,
    }
    return {
        part: [as_document(redacted(message(one))) for _, one in sorted(types.get(url, {}).items())]
        for part, url in urls.items()
        if part != "scopedRoutes" or url in types
    }

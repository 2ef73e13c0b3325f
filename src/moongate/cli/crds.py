"""``moongate crds``: print the CustomResourceDefinitions of the kinds that a cluster needs for moongate."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from moongate.cli.printing import Output, say_documents
from moongate.cli.usage_errors import UsageError


def crds(
    kinds: Annotated[
        list[str] | None,
        Parameter(help="Kinds, by any name that kubectl takes; all when there is none.", negative=""),
    ] = None,
    /,
    *,
    output: Annotated[Output, Parameter(name=["--output", "-o"], help="How to print them.")] = "yaml",
) -> int:
    """Print the CustomResourceDefinitions of kinds of Envoy Gateway.

    There are those of Backend, BackendTrafficPolicy, ClientTrafficPolicy,
    EnvoyPatchPolicy and HTTPRouteFilter: of each kind that is built as a whole.
    They are made from the same models with which moongate checks manifests, so
    an API server refuses what moongate refuses.

    For example, for a cluster; what differs from the ones there; a single one:

        moongate crds | kubectl apply --server-side -f -
        moongate crds | kubectl diff --server-side -f -
        moongate crds btp

    Exits 0, or 2 when a kind does not exist.
    """
    from moongate.crds import DEFINITIONS, custom_resource_definition

    by_name = {name: definition for definition in DEFINITIONS for name in definition.names}
    for kind in kinds or ():
        if kind.lower() not in by_name:
            existing = ", ".join(definition.kind.KIND for definition in DEFINITIONS)
            raise UsageError(f"There is no definition of {kind!r} here; there are those of {existing}.")
    selected = dict.fromkeys(by_name[kind.lower()] for kind in kinds) if kinds else DEFINITIONS
    say_documents([custom_resource_definition(definition) for definition in selected], output)
    return 0

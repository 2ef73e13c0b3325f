"""``moongate effective``: the settings of a resource, each with the policy or route that sets it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from moongate.cli.manifests import Config, Namespace
from moongate.cli.printing import say, say_document, say_table
from moongate.cli.usage_errors import REFUSED, USAGE, UsageError

if TYPE_CHECKING:
    from moongate.api.base import Ref

SOCKET = "effective.sock"
"""The file name of the socket on which a run answers, in the folder of the run."""
_TIMEOUT_S = 10.0

Document = dict[str, Any]


def effective(
    resource: Annotated[str, Parameter(help="KIND/NAMESPACE/NAME, or with a listener or rule behind it.")],
    paths: Annotated[
        list[str] | None,
        Parameter(help="Files or folders of manifests, instead of a running moongate.", negative=""),
    ] = None,
    /,
    *,
    output: Annotated[
        Literal["text", "json", "yaml"], Parameter(name=["--output", "-o"], help="How to print it.")
    ] = "text",
    run_dir: Annotated[
        Path | None,
        Parameter(help="The folder of one run, or the folder that contains the folders of runs."),
    ] = None,
    config: Config = None,
    namespace: Namespace = "default",
) -> int:
    """Show the settings of a route, Gateway or ListenerSet, and who sets each.

    Policies of several levels may apply to one rule, and merge; a rule may set
    something itself. What is shown is the result for each rule on each
    listener: field, value, and the resource that the value comes from. For a
    Gateway or a ListenerSet it is what applies on each listener where no route
    has a policy or setting of its own. A value that is not in force is shown
    with the reason. The fields of a Gateway's own spec, such as tls.frontend,
    are not shown.

    For example, of a running moongate; one rule of it; of files:

        moongate effective HTTPRoute/default/shop
        moongate effective HTTPRoute/default/shop/checkout
        moongate effective Gateway/default/eg shop/ -o json

    Exits 0 when the resource exists, 1 when it does not or when no moongate runs,
    2 on bad usage.
    """
    ref, section = _named(resource)
    scopes = _of_files(ref, section, paths, config, namespace) if paths else _of_run(ref, section, run_dir)
    if scopes is None:
        raise UsageError(f"There is no {ref}.", REFUSED)
    if section and not scopes:
        raise UsageError(f"{ref} has no listener or rule named {section!r} that serves requests.", REFUSED)
    if output == "text":
        _say(ref, scopes)
    else:
        say_document({"version": 1, "resource": str(ref), "scopes": scopes}, output)
    return 0


def _named(resource: str) -> tuple[Ref, str]:
    """The resource, and the section of it."""
    from moongate.api.gateway import Gateway
    from moongate.api.listenerset import ListenerSet
    from moongate.attach.route_kinds import ROUTE_TYPES
    from moongate.kinds import ref_of

    kinds = {kind.KIND.lower(): kind.KIND for kind in (*ROUTE_TYPES, Gateway, ListenerSet)}
    kind, *parts = resource.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(f"{resource!r} must be KIND/NAMESPACE/NAME, such as HTTPRoute/default/shop.", USAGE)
    if kind.lower() not in kinds:
        names = ", ".join(kinds.values())
        raise UsageError(f"No policy applies to kind {kind!r}; choose one of {names}.", USAGE)
    return ref_of(kinds[kind.lower()], parts[0], parts[1]), parts[2] if len(parts) == 3 else ""


def _of_files(
    ref: Ref, section: str, paths: list[str], config: Path | None, namespace: str
) -> list[Document] | None:
    from moongate.cli.manifests import translated
    from moongate.effective_settings import as_data, effective_settings

    translation = translated(paths, config=config, namespace=namespace)
    for diagnostic in translation.errors:
        say(str(diagnostic), stderr=True)
    scopes = effective_settings(translation.world.db, ref, section)
    return None if scopes is None else as_data(scopes)


def _of_run(ref: Ref, section: str, run_dir: Path | None) -> list[Document] | None:
    from moongate.cli.status import connected, run_of

    run = run_of(run_dir)
    question = {"kind": ref.kind, "namespace": ref.namespace, "name": ref.name, "section": section}
    received = bytearray()
    with connected(run / SOCKET, _TIMEOUT_S) as connection:
        connection.sendall(json.dumps(question).encode() + b"\n")
        while chunk := connection.recv(1 << 16):
            received += chunk
    try:
        return json.loads(received)
    except ValueError:
        message = f"The moongate of {run} gave no answer; use the same release of both, or look into its log."
        raise UsageError(message, REFUSED) from None


def _say(ref: Ref, scopes: list[Document]) -> None:
    """Print one table for all scopes that have the same settings."""
    alike: defaultdict[str, list[Document]] = defaultdict(list)
    for scope in scopes:
        alike[json.dumps([scope["settings"], scope["refused"]])].append(scope)
    for n, group in enumerate(alike.values()):
        if n:
            say("")
        title = f"{ref}: {', '.join(map(_place, group))}"
        rows = [
            (each["field"], _shown(each["value"]), each["owner"], each["fault"])
            for each in group[0]["settings"]
        ]
        if rows:
            headers = ["FIELD", "VALUE", "FROM", *(["NOT IN FORCE"] if any(row[3] for row in rows) else [])]
            say_table(title, headers, [row[: len(headers)] for row in rows])
        else:
            say(f"{title}\nNo policy sets anything here.")
        for policy in group[0]["refused"]:
            say(f"All requests are refused, because {policy} has a fault.")
    if not scopes:
        say(f"{ref}: no listener serves it, so no policy applies to it.")


def _place(scope: Document) -> str:
    if scope["rule"] is None:
        return scope["listener"]
    name = f" ({scope['name']})" if scope["name"] else ""
    return f"rule {scope['rule']}{name} on {scope['listener']}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)

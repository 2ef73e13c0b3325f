"""Reading and translating the manifests of a command, with the place of each fault in its file."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from time import time  # noqa: TID251 - certificates have dates
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from msgspec import Struct

from moongate.cli.usage_errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moongate.api.base import Ref
    from moongate.api.envoygateway import EnvoyGateway
    from moongate.dangling import DanglingReference
    from moongate.sources.diagnostics import Diagnostic
    from moongate.sources.files import Files
    from moongate.world import World

STDIN_TOKEN = "<stdin>"  # noqa: S105  no password
"""Stands for "-" while the command line is parsed, because the parser does not accept "-"."""

Paths = Annotated[
    list[str], Parameter(help="Files or folders of manifests; '-' is standard input.", negative="")
]
Config = Annotated[
    Path | None,
    Parameter(name="--config", help="An EnvoyGateway configuration, instead of the one among the manifests."),
]
Namespace = Annotated[
    str, Parameter(name=["--namespace", "-n"], help="The namespace of resources that name none.")
]


class Translated(Struct, frozen=True):
    """The result of a translation.

    Args:
        world: the settled world.
        files: the files that were read; they know the place of each resource.
        diagnostics: the faults of single manifests and of their combination; each once, sorted by place.
        ignored: the kinds that a gateway does not read, once for each document of them.
    """

    world: World
    files: Files
    diagnostics: tuple[Diagnostic, ...]
    ignored: tuple[str, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics because of which some configuration is not in force."""
        return tuple(diagnostic for diagnostic in self.diagnostics if diagnostic.severity == "error")


def translated(
    paths: Iterable[str],
    *,
    config: Path | None,
    namespace: str,
    traceable: bool = False,
    bind: str | None = None,
) -> Translated:
    """Read manifests and translate them, in the same way as a moongate that starts now.

    Args:
        paths: files and folders.
        config: the file with the EnvoyGateway configuration. If ``None``, the one among the manifests is
            used, or else the one that moongate ships.
        namespace: of resources that name none.
        traceable: put metadata on all xDS resources, so that a caller can see which resource each part of
            them was built from.
        bind: where listeners are opened, as the cell ``BIND`` has it.

    Raises:
        UsageError: a path or the configuration cannot be read.
    """
    names = existing(paths)
    configuration = read_configuration(config) if config is not None else None

    from msgspec import structs

    from moongate.api.envoygateway import EnvoyGateway
    from moongate.attach.certificates import NOW
    from moongate.attach.gateways import AUTHORITIES, BIND, CLOSED, laptop_class
    from moongate.dangling import ROUTABLE, dangling_references, selecting_nothing
    from moongate.infra.authorities import authorities_file
    from moongate.loading import loading
    from moongate.sources.diagnostics import EMPTY, refused_resources, without_reported
    from moongate.sources.files import Files
    from moongate.world import World

    files = Files(names, namespace=namespace)
    with loading():
        loaded = files.load()
    in_force = (configuration or loaded.configuration or EnvoyGateway.shipped()).on_host()
    if traceable:
        flags = in_force.runtime_flags.without("MetadataWhereRead", "ScopedTables", "ScopedLargeTables")
        in_force = structs.replace(in_force, runtime_flags=flags)
    built_in = laptop_class(in_force)
    resources = {built_in.ref: built_in} | dict(files.folder.resources)
    world = World(in_force)
    world.write(BIND, bind)
    world.write(AUTHORITIES, authorities_file())
    # As in a run: a certificate that is out of date is not served.
    world.write(NOW, int(time()))
    world.write(CLOSED, loaded.refused)
    with loading():
        world.apply(resources)
        world.refuse(refused_resources(loaded.diagnostics, resources))
        world.pull()
    # To judge nothing is no success: it is a slip in a path, or the failure of a program before a pipe.
    faults = [
        structs.replace(diagnostic, severity="error") if diagnostic.problem.reason == EMPTY else diagnostic
        for diagnostic in loaded.diagnostics
        if diagnostic.severity != "info"
    ]
    resources = world.store.resources()
    dangling = dangling_references(
        resources,
        resources,
        controller=in_force.gateway.controller_name,
        faulty=files.folder.faulty_place,
        unread=files.folder.unread_place,
    )
    unselecting = selecting_nothing(resources, resources, world.statuses().__contains__)
    by_field = {(each.resource, each.field): each for each in (*dangling, *unselecting)}
    # A field that is not built yet is reported where it is written; a protocol only the status knows.
    written = {each.unbuilt for each in faults}
    statuses = [
        each for each in status_diagnostics(world, files) if not each.unbuilt or each.unbuilt not in written
    ]
    # The status reports a dangling reference too, but without the name that the user may have meant.
    degraded: list[Diagnostic] = []
    explained: dict[tuple[Ref, str], DanglingReference] = {}
    for each in statuses:
        key = (each.resource, each.problem.path) if each.resource is not None else None
        if key is None or (reference := by_field.get(key)) is None:
            degraded.append(each)
        else:
            explained[key] = reference._replace(problem=reference.explaining(each.problem))
    alone = {key: each for key, each in by_field.items() if each.problem.reason != ROUTABLE}
    references = [files.folder.diagnostic(*each) for each in (alone | explained).values()]
    faulty: dict[Ref | None, set[str]] = defaultdict(set)
    for each in degraded:
        faulty[each.resource].add(each.problem.path)
    manifests = without_reported(faults, lambda ref: faulty[ref])
    diagnostics = dict.fromkeys((*manifests, *degraded, *references, *_bugs(world)))
    return Translated(
        world,
        files,
        tuple(sorted(diagnostics, key=lambda diagnostic: diagnostic.place)),
        tuple(
            each.resource.kind if each.resource is not None else "nameless"
            for each in loaded.diagnostics
            if each.severity == "info"
        ),
    )


def existing(paths: Iterable[str]) -> list[str]:
    """The paths in the form that ``Files`` accepts.

    Raises:
        UsageError: a file does not exist, or standard input is a terminal.
    """
    names = ["-" if path == STDIN_TOKEN else path for path in paths]
    for path in names:
        if path == "-" and sys.stdin.isatty():
            raise UsageError("'-' reads manifests from standard input, which is this terminal; pipe them in.")
        if path != "-" and not Path(path).exists():
            where = "" if Path(path).is_absolute() else f" in {Path.cwd()}"
            raise UsageError(f"There is no file or folder {path!r}{where}; name one that holds manifests.")
    return names


def read_configuration(path: Path) -> EnvoyGateway:
    """The EnvoyGateway configuration in a file.

    Raises:
        UsageError: the file has none, or it has faults; the message lists all of them.
    """
    from moongate.api.admission import admit_configuration
    from moongate.sources.chunks import Place
    from moongate.sources.positions import position
    from moongate.sources.yaml_documents import Malformed, parsed_yaml

    try:
        text = path.read_text(encoding="utf-8")
        document = parsed_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise UsageError(f"The configuration {str(path)!r} cannot be read: {why}.") from None
    except Malformed as fault:
        raise UsageError(f"{Place(str(path), fault.line, fault.column)}: {fault.message}") from None
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: The configuration must be an object with apiVersion and kind: EnvoyGateway."
        )
    body: dict[str, Any] = {key: value for key, value in document.items() if key != "metadata"}  # pyright: ignore[reportUnknownVariableType]
    configuration, problems = admit_configuration(body)
    if configuration is None:
        raise UsageError(
            "\n".join(f"{Place(str(path), *position(text, p.path))}: {p.path}: {p.message}" for p in problems)
        )
    return configuration


# --- statuses -------------------------------------------------------------------------------------


def statuses(world: World) -> list[dict[str, Any]]:
    """All statuses as documents, sorted; without the conditions that depend on running Envoys."""
    from moongate.api.gateway import Gateway
    from moongate.status.gateways import EnvoyState, GatewayStatus, live
    from moongate.translation import status_documents

    resources = world.store.resources()
    all_statuses = world.statuses()
    documents: list[dict[str, Any]] = []
    for ref, document in zip(sorted(all_statuses), status_documents(world, {}), strict=True):
        status, resource = all_statuses[ref], resources[ref]
        if isinstance(status, GatewayStatus) and isinstance(resource, Gateway):
            import msgspec

            seen = live(status, resource, EnvoyState(serving=0))
            # No Envoy runs, so "Programmed" would be false everywhere. It is kept where a query failed.
            conditions = tuple(c for c in seen.conditions if c.type != "Programmed" or c in status.conditions)
            document["status"] = msgspec.to_builtins(msgspec.structs.replace(seen, conditions=conditions))
        documents.append(document)
    return documents


def status_diagnostics(world: World, files: Files) -> Iterator[Diagnostic]:
    """The degraded conditions of all statuses, each at the field that causes it.

    What several conditions say of one field is said once.
    """
    from moongate.status.causes import Cause, causes
    from moongate.status.degraded import degradations

    resources = world.store.resources()
    seen: set[Diagnostic] = set()
    for ref, status in sorted(world.statuses().items()):
        faults = causes(world.db, resources[ref])
        for degradation in degradations(resources[ref], status):
            own = (Cause(ref, problem) for problem in degradation.problems)
            for cause in faults.get((degradation.at, degradation.condition)) or own:
                diagnostic = files.folder.diagnostic(*cause, degradation.severity)
                if diagnostic not in seen:
                    seen.add(diagnostic)
                    yield diagnostic


def _bugs(world: World) -> Iterator[Diagnostic]:
    """One diagnostic for each query that failed. The rest of the translation does not depend on it."""
    from moongate.problem import Problem
    from moongate.sources.chunks import Place
    from moongate.sources.diagnostics import Diagnostic

    for failed in world.failures().values():
        message = (
            f"Internal error in {failed.query} ({failed.id}): {failed.error}. This is a bug of moongate."
        )
        yield Diagnostic(Place("", 0, 0), None, Problem("", message, "Internal"))

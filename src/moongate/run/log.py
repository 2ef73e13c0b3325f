"""What a run logs of its manifests, statuses and listeners: each once, until it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from moongate.api.envoygateway import CONTROLLER_NAME
from moongate.api.gateway import GatewayClass
from moongate.attach.policies import Policy
from moongate.dangling import EMPTY, MISSING, dangling_references, selecting_nothing, selects_only
from moongate.sources.diagnostics import NOWHERE, Diagnostic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from moongate.api.base import Ref, Resource
    from moongate.engine import Failed
    from moongate.problem import Problem
    from moongate.report.transitions import Transition
    from moongate.sources.chunks import Place
    from moongate.sources.folder import Folder, Severity

_log = structlog.get_logger("moongate")

MOST_FAULTS_LOGGED: Final = 1000
"""Faults of manifests that are logged after one change; a file can hold one in every few bytes."""

MOST_LOGGED: Final = 20
"""Conditions that are logged after one change; of the others only their number is."""

_DANGLING = "dangling"
_IN_STATUS = frozenset({MISSING, EMPTY})
"""Reasons of dangling references that a condition names too; the condition is logged with the hint."""


class RunLog:
    """Logs differences, so it remembers what it has logged.

    Args:
        held: all resources in force.
        sliced: whether a Service has an EndpointSlice; without it, all that is held is looked through.
        controller: the controllerName of GatewayClasses that are served.
        causes: the faults behind the conditions of a resource, by the field of the part and the type.
    """

    def __init__(
        self,
        held: Mapping[Ref, Resource],
        sliced: Callable[[Ref], bool] | None = None,
        controller: Callable[[], str] = lambda: CONTROLLER_NAME,
        causes: Callable[[Ref], Mapping[tuple[str, str], tuple[Problem, ...]]] = lambda _ref: {},
    ) -> None:
        self._held = held
        self._causes = causes
        self._sliced = sliced
        self._controller = controller
        self._logged_as = ""
        self._folders: list[Folder] = []
        self._diagnostics: dict[str, tuple[Diagnostic, ...]] = {}
        self._hints: tuple[Diagnostic, ...] = ()
        self._selecting: dict[Ref, None] = {}
        """The policies from files that have targets by labels alone."""
        self._erroneous = False
        """Whether a diagnostic is an error."""
        self._unbuilt: frozenset[tuple[Ref, str]] = frozenset()
        """The fields that were logged as not built yet: resource and path."""
        self._failures: set[str] = set()
        self._urls: dict[str, None] = {}

    def places_from(self, folder: Folder) -> None:
        """Give the resources of a folder their places in what is logged."""
        if folder not in self._folders:
            self._folders.append(folder)

    def diagnostic(self, ref: Ref, problem: Problem, severity: Severity) -> Diagnostic:
        """A diagnostic with its place, if the resource comes from a folder."""
        placed = (folder.diagnostic(ref, problem, severity) for folder in self._folders if ref in folder)
        return next(placed, Diagnostic(NOWHERE, ref, problem, severity))

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All about manifests as they are now: their faults, and all references that lead nowhere."""
        faults = (d for source, own in self._diagnostics.items() if source != _DANGLING for d in own)
        return (*faults, *self._dangling(self._held))

    def has_unbuilt(self, ref: Ref, path: str) -> bool:
        """Whether a field of a resource was logged as not built yet, so that its status need not be."""
        return (ref, path) in self._unbuilt

    @property
    def has_errors(self) -> bool:
        """Whether a manifest has an error of its own now."""
        return self._erroneous

    def faults(self, source: str, diagnostics: tuple[Diagnostic, ...]) -> None:
        """Log what is new among all the diagnostics of a source, and the end of all errors."""
        self._log_new(source, diagnostics)
        self._log_end_of_errors()

    def _log_new(self, source: str, diagnostics: tuple[Diagnostic, ...]) -> None:
        known = self._diagnostics.get(source, ())
        self._diagnostics[source] = diagnostics
        everything = (each.unbuilt for own in self._diagnostics.values() for each in own)
        self._unbuilt = frozenset(filter(None, everything))
        # Not by place: that moves with every line before it.
        before = {(f.resource, f.problem, f.place.file) for f in known}
        # Nor is a fault new of what no file has any more, and is still in force.
        before |= {(f.resource, f.problem, NOWHERE.file) for f in known}
        new = [f for f in diagnostics if (f.resource, f.problem, f.place.file) not in before]
        new.sort(key=lambda diagnostic: diagnostic.severity != "error")
        for diagnostic in new[:MOST_FAULTS_LOGGED]:
            log = {"error": _log.error, "warning": _log.warning}.get(diagnostic.severity, _log.debug)
            log("manifest", message=str(diagnostic), **({"trace": t} if (t := diagnostic.trace) else {}))
        if len(new) > MOST_FAULTS_LOGGED:
            _log.warning("manifest.more", count=len(new) - MOST_FAULTS_LOGGED, see="moongate validate")

    def _log_end_of_errors(self) -> None:
        """To be called when all that one change leads to is known: an error may lead to another one."""
        before = self._erroneous
        self._erroneous = any(d.severity == "error" for own in self._diagnostics.values() for d in own)
        if before and not self._erroneous:
            _log.info("manifests.mended")

    def loaded(
        self,
        diagnostics: tuple[Diagnostic, ...],
        batch: Mapping[Ref, Resource | None],
        *,
        files: int,
        resources: int,
    ) -> None:
        """Log that a batch from files is in force, their new faults, and the new dangling references.

        Args:
            diagnostics: all those of the files.
            batch: what differs from before.
            files: how many were read.
            resources: how many there are now.
        """
        self._log_new("files", diagnostics)
        for ref, resource in batch.items():
            if isinstance(resource, Policy) and selects_only(resource):
                self._selecting[ref] = None
            else:
                self._selecting.pop(ref, None)
        known = (f.resource for f in (*self._diagnostics.get(_DANGLING, ()), *self._hints) if f.resource)
        # What is gone may have been the target of any resource, and a class decides on all its Gateways.
        anywhere = (
            None in batch.values()
            or self._logged_as != self._controller()
            or any(ref.is_a(GatewayClass) for ref in batch)
        )
        self._logged_as = self._controller()
        ends = self._dangling(self._held if anywhere else dict.fromkeys((*known, *batch)))
        self._hints = tuple(f for f in ends if f.problem.reason in _IN_STATUS)
        self._log_new(_DANGLING, tuple(f for f in ends if f.problem.reason not in _IN_STATUS))
        self._log_end_of_errors()
        _log.info("manifests.loaded", files=files, resources=resources, changed=len(batch))

    def selecting(self, has_status: Callable[[Ref], bool]) -> None:
        """Log which policies have begun to select nothing; to be called when all statuses are known."""
        ends = selecting_nothing(self._held, self._selecting, has_status)
        self._log_new("selectors", tuple(self.diagnostic(*end) for end in ends))

    def transitions(self, transitions: Sequence[Transition]) -> None:
        """Log conditions that turned bad or good."""
        for ref, degradation, bad in transitions[:MOST_LOGGED]:
            causes = self._causes(ref).get((degradation.at, degradation.condition), ()) if bad else ()
            problem, *others = causes or degradation.problems
            fields = {"resource": str(ref), "condition": degradation.condition}
            if problem.path:
                fields["field"] = problem.path
            if at := str(self.diagnostic(ref, problem, "warning").place):
                fields["at"] = at
            hint = next(
                (
                    h
                    for h in self._hints
                    if h.resource == ref and _is_about(degradation.condition, problem, h.problem)
                ),
                None,
            )
            if bad and hint is not None:
                fields |= {
                    "hint": hint.problem.message,
                    "field": hint.problem.path,
                    "at": str(hint.place),
                }
            if bad:
                messages = (problem.message, *(f"{other.path}: {other.message}" for other in others))
                message = " ".join(messages).replace("\n", " ")
                fields |= {"status": degradation.status, "reason": problem.reason, "message": message}
                _log.warning("status.degraded", **fields)
            else:
                _log.info("status.recovered", **fields)
        if len(transitions) > MOST_LOGGED:
            _log.warning("status.more", count=len(transitions) - MOST_LOGGED, see="moongate status")

    def _dangling(self, refs: Iterable[Ref]) -> tuple[Diagnostic, ...]:
        ends = dangling_references(
            self._held,
            refs,
            controller=self._controller(),
            faulty=self._faulty_place,
            sliced=self._sliced,
            unread=self._unread_place,
        )
        return tuple(self.diagnostic(*end) for end in ends)

    def _faulty_place(self, ref: Ref) -> Place | None:
        places = (folder.faulty_place(ref) for folder in self._folders)
        return next((place for place in places if place is not None), None)

    def _unread_place(self) -> Place | None:
        places = (folder.unread_place() for folder in self._folders)
        return min((place for place in places if place is not None), default=None)

    def serving(self, urls: tuple[str, ...]) -> None:
        """Log the addresses at which listeners answer that did not before."""
        for url in urls:
            if url not in self._urls:
                _log.info("gateway.serving", url=url)
        self._urls = dict.fromkeys(urls)

    def failures(self, failures: Iterable[Failed]) -> None:
        """Log bugs of moongate that were contained and were not in force before; takes all that are now."""
        current = {failed.id: failed for failed in failures}
        for failed in current.values():
            if failed.id not in self._failures:
                _log.error(
                    "core.failed", query=failed.query, id=failed.id, error=failed.error, trace=failed.trace
                )
        self._failures = set(current)


def _is_about(condition: str, problem: Problem, reference: Problem) -> bool:
    """Whether a problem of a condition is about a reference: it names a field around it, or only its parent.

    Of a parent, only ``ResolvedRefs`` is about references.
    """
    if problem.path.startswith(("spec.rules", "spec.listeners")):
        return f"{reference.path}.".startswith((f"{problem.path}.", f"{problem.path}["))
    return condition == "ResolvedRefs" or not problem.path.startswith("spec.parentRefs")

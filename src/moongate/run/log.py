"""What a run logs of its manifests, statuses and listeners: each once, until it differs."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import structlog

from moongate.api.envoygateway import CONTROLLER_NAME
from moongate.api.gateway import GatewayClass
from moongate.attach.policies import Policy
from moongate.dangling import EMPTY, MISSING, ROUTABLE, dangling_by_resource, selecting_nothing, selects_only
from moongate.policies import POLICY_KINDS
from moongate.report.statuses import REFUSED
from moongate.sources.diagnostics import NOWHERE, Diagnostic
from moongate.status.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from moongate.api.base import Ref, Resource
    from moongate.dangling import DanglingReference
    from moongate.engine import Failed
    from moongate.problem import Problem
    from moongate.report.statuses import Statuses
    from moongate.report.transitions import Transition
    from moongate.sources.chunks import Place
    from moongate.sources.folder import Folder, Severity
    from moongate.status.degraded import Degradation

    _Line: TypeAlias = "tuple[Ref, str, Cause]"
    """What is logged of a condition: the resource, how it changed, and the fault."""

_log = structlog.get_logger("moongate")

MOST_FAULTS_LOGGED: Final = 1000
"""Faults of manifests that are logged after one change; a file can hold one in every few bytes."""

MOST_LOGGED: Final = 20
"""Conditions that are logged after one change; of the others only their number is."""

_POLICIES = frozenset(kind.KIND for kind in POLICY_KINDS)

_DANGLING = "dangling"
_ALONE = "alone"
_IN_STATUS = frozenset({MISSING, EMPTY, ROUTABLE})
"""Reasons of dangling references that a condition may report too: they are logged when that is known."""


class RunLog:
    """Logs differences, so it remembers what it has logged.

    Args:
        resources: all resources in force.
        sliced: whether a Service has an EndpointSlice; without it, all that is held is looked through.
        listening: the Gateways and ListenerSets with a listener at a port; likewise.
        controller: the controllerName of GatewayClasses that are served.
        causes: the faults behind the conditions of a resource, by the field of the part and the type.
    """

    def __init__(
        self,
        resources: Mapping[Ref, Resource],
        sliced: Callable[[Ref], bool] | None = None,
        listening: Callable[[int], Iterable[Ref]] | None = None,
        controller: Callable[[], str] = lambda: CONTROLLER_NAME,
        causes: Callable[[Ref], Mapping[tuple[str, str], tuple[Cause, ...]]] = lambda _ref: {},
    ) -> None:
        self._resources = resources
        self._causes = causes
        self._sliced = sliced
        self._listening = listening
        self._controller = controller
        self._logged_as = ""
        self._folders: list[Folder] = []
        self._diagnostics: dict[str, tuple[Diagnostic, ...]] = {}
        self._ends: dict[Ref, tuple[DanglingReference, ...]] = {}
        """The dangling references of the resources that have any."""
        self._searched: Iterator[tuple[Ref, tuple[DanglingReference, ...]]] | None = None
        """Looks through all resources, as something is gone that any of them may refer to."""
        self._alone: set[DanglingReference] = set()
        """Those of them that no condition reports."""
        self._unsettled: dict[Ref, None] = {}
        """The resources for which it is to be decided again which of them a condition reports."""
        self._blamed: dict[Ref, dict[Ref, None]] = {}
        """Resources with a fault that a condition of another one reports, and those others."""
        self._selecting: dict[Ref, None] = {}
        """The policies from files that have targets by labels alone."""
        self._erroneous = self._warned = False
        """Whether a diagnostic is an error; whether one is a warning that no condition may take over."""
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
        return tuple(chain.from_iterable(self.diagnostics_in_steps()))

    def diagnostics_in_steps(self) -> Iterator[tuple[Diagnostic, ...]]:
        """The same: all faults first, and then the references of one resource after the other."""
        references = (_DANGLING, _ALONE)
        faults = (d for source, own in self._diagnostics.items() if source not in references for d in own)
        yield tuple(faults)
        for ends in self._dangling(tuple(self._resources)):
            yield tuple(self.diagnostic(*end) for end in ends if end.problem.reason != ROUTABLE)

    def has_unbuilt(self, ref: Ref, path: str) -> bool:
        """Whether a field of a resource was logged as not built yet, so that its status need not be."""
        return (ref, path) in self._unbuilt

    @property
    def has_errors(self) -> bool:
        """Whether a manifest has an error of its own now."""
        return self._erroneous

    def faults(self, source: str, diagnostics: tuple[Diagnostic, ...]) -> None:
        """Log what is new among all the diagnostics of a source, and the end of all faults."""
        self._log_new(source, diagnostics)
        self._log_end_of_faults()

    def _log_new(self, source: str, diagnostics: tuple[Diagnostic, ...]) -> None:
        former = self._diagnostics.get(source, ())
        self._diagnostics[source] = diagnostics
        everything = (each.unbuilt for own in self._diagnostics.values() for each in own)
        self._unbuilt = frozenset(filter(None, everything))
        # Not by place: that moves with every line before it.
        before = {(f.resource, f.problem, f.place.file) for f in former}
        # Nor is a fault new of what no file has any more, and is still in force.
        before |= {(f.resource, f.problem, NOWHERE.file) for f in former}
        new = [f for f in diagnostics if (f.resource, f.problem, f.place.file) not in before]
        new.sort(key=lambda diagnostic: diagnostic.severity != "error")
        for diagnostic in new[:MOST_FAULTS_LOGGED]:
            log = {"error": _log.error, "warning": _log.warning}.get(diagnostic.severity, _log.debug)
            log("manifest", message=str(diagnostic), **({"trace": t} if (t := diagnostic.trace) else {}))
        if len(new) > MOST_FAULTS_LOGGED:
            _log.warning("manifest.more", count=len(new) - MOST_FAULTS_LOGGED, see="moongate validate")

    def _log_end_of_faults(self) -> None:
        """Log that there is no error any more, or, where there was none, no warning.

        To be called when all that one change leads to is known: a fault may lead to another one.
        """
        erroneous, warned = self._erroneous, self._warned
        self._erroneous = any(d.severity == "error" for own in self._diagnostics.values() for d in own)
        # A warning that stands alone may be one of a condition later, and is not mended by that.
        lasting = (own for source, own in self._diagnostics.items() if source != _ALONE)
        self._warned = any(d.severity == "warning" for own in lasting for d in own)
        if not self._erroneous and (erroneous or (warned and not self._warned)):
            _log.info("manifests.mended")

    def loaded(
        self,
        diagnostics: tuple[Diagnostic, ...],
        batch: Mapping[Ref, Resource | None],
        *,
        files: int,
        resources: int,
    ) -> Iterator[None]:
        """Log that a batch from files is in force, their new faults, and the new dangling references; in
        steps.

        Args:
            diagnostics: all those of the files.
            batch: what differs from before.
            files: how many were read.
            resources: how many there are now.
        """
        self._log_new("files", diagnostics)
        for ref, resource in batch.items():
            yield
            if isinstance(resource, Policy) and selects_only(resource):
                self._selecting[ref] = None
            else:
                self._selecting.pop(ref, None)
            if resource is None:
                self._blamed.pop(ref, None)
                for refs in self._blamed.values():
                    refs.pop(ref, None)
        # What is gone may have been the target of any resource, and a class decides on all its Gateways. But
        # nothing refers to a policy.
        anywhere = any(
            (resource is None and ref.kind not in _POLICIES) or ref.is_a(GatewayClass)
            for ref, resource in batch.items()
        )
        refs = dict.fromkeys((*self._ends, *batch))
        if self._logged_as != self._controller():
            self._logged_as = self._controller()
            refs = dict.fromkeys((*self._ends, *batch, *self._resources))
        elif anywhere:
            self._searched = self._by_resource(dict.fromkeys(self._resources))
        for each in self._by_resource(refs):
            self._note_ends(*each)
            yield
        self._unsettled.update(dict.fromkeys(batch))
        self._log_ends()
        _log.info("manifests.loaded", files=files, resources=resources, changed=len(batch))

    def search(self) -> Iterator[None]:
        """Look for dangling references in all resources where any of them may have one now; in steps.

        To look through thousands takes long. A caller with something else to do can leave it, and call this
        again later: it goes on where it was.
        """
        while (searched := self._searched) is not None:
            if (each := next(searched, None)) is None:
                self._searched = None
                self._log_ends()
            else:
                self._note_ends(*each)
                yield

    def _note_ends(self, ref: Ref, ends: tuple[DanglingReference, ...]) -> None:
        """Keep the dangling references of a resource."""
        if ends or ref in self._ends:
            self._unsettled[ref] = None
        if ends:
            self._ends[ref] = ends
        else:
            self._ends.pop(ref, None)

    def _log_ends(self) -> None:
        """Log the new ones among those that no condition reports."""
        if self._searched is not None:
            # Others may come, which may be the end of no fault.
            self._erroneous |= any(d.severity == "error" for own in self._diagnostics.values() for d in own)
            return
        ends = chain.from_iterable(self._ends.values())
        unreported = (end for end in ends if end.problem.reason not in _IN_STATUS)
        self._log_new(_DANGLING, tuple(self.diagnostic(*end) for end in unreported))
        self._log_end_of_faults()

    def statuses(self, changed: Iterable[Ref]) -> None:
        """Note which statuses changed: a condition may report a reference from now on, or not any more."""
        self._unsettled.update(dict.fromkeys(changed))
        blamed = [at for at, refs in self._blamed.items() if not refs.keys().isdisjoint(self._unsettled)]
        self._unsettled.update(dict.fromkeys(blamed))

    def references(self, statuses: Statuses) -> None:
        """Log the references that lead nowhere and that no condition reports.

        To be called when all statuses are known. Where a condition reports one, it is logged with that.
        """
        unsettled, self._unsettled = self._unsettled, {}
        alone = {end for end in self._alone if end.resource not in unsettled}
        for ref, ends in self._ends.items() if unsettled else ():
            hints = [end for end in ends if end.problem.reason in _IN_STATUS] if ref in unsettled else ()
            if hints:
                reported = {fault.path for fault in self._faults(ref, statuses)}
                alone.update(e for e in hints if e.field not in reported and e.problem.reason != ROUTABLE)
        self._alone = alone
        unselecting = selecting_nothing(self._resources, self._selecting, statuses.has)
        self._log_new(_ALONE, tuple(self.diagnostic(*end) for end in sorted(alone)))
        self._log_new("selectors", tuple(self.diagnostic(*end) for end in unselecting))
        self._log_end_of_faults()

    def transitions(self, transitions: Sequence[Transition]) -> None:
        """Log conditions that turned bad or good, the bad ones at each field that causes them."""
        lines: dict[_Line, tuple[Place, Transition]] = {}
        # Of a condition that is good again, only the field that it is about is logged.
        behind = [
            _behind(self._causes(ref), ref, degradation) if bad else _own(ref, degradation)[:1]
            for ref, degradation, bad in transitions
        ]
        # Asked again, as what a resource refers to may have changed without it: a Service loses its slices.
        asked = dict.fromkeys(
            at
            for (ref, _, bad), causes in zip(transitions[:MOST_LOGGED], behind, strict=False)
            for at in ((ref, *(cause.resource for cause in causes)) if bad else ())
        )
        dangling = chain.from_iterable(self._dangling(asked)) if asked else ()
        about = {(end.resource, end.field): end for end in dangling}
        for transition, causes in zip(transitions, behind, strict=True):
            ref, degradation, bad = transition
            for at, fault in causes:
                if at != ref:
                    self._blamed.setdefault(at, {})[ref] = self._unsettled[at] = None
                end = about.get((at, fault.path)) if bad else None
                problem = fault if end is None else end.explaining(fault)
                place = self.diagnostic(at, problem, degradation.severity).place
                line = (ref, f"{degradation.condition} {bad}", Cause(at, problem))
                lines.setdefault(line, (place, transition))
        others = _refused_alike(lines)
        for line, (place, transition) in islice(lines.items(), MOST_LOGGED):
            ref, _, cause = line
            degradation, bad = transition.degradation, transition.bad
            problem = cause.problem
            fields: dict[str, Any] = {"resource": str(cause.resource), "condition": degradation.condition}
            if cause.resource != ref:
                fields["condition_of"] = str(ref)
            if line in others:
                fields["others"] = others[line]
            if problem.path:
                fields["field"] = problem.path
            if at := str(place):
                fields["at"] = at
            if bad:
                message = problem.message.replace("\n", " ")
                fields |= {"status": degradation.status, "reason": problem.reason, "message": message}
                _log.warning("status.degraded", **fields)
            else:
                _log.info("status.recovered", **fields)
        if len(lines) > MOST_LOGGED:
            _log.warning("status.more", count=len(lines) - MOST_LOGGED, see="moongate status")

    def _faults(self, ref: Ref, statuses: Statuses) -> Iterator[Problem]:
        """The faults of a resource that conditions report, its own or those of who refers to it."""
        for reporting in (ref, *self._blamed.get(ref, ())):
            causes = self._causes(reporting)
            for degradation in statuses.degradations(reporting):
                behind = _behind(causes, reporting, degradation)
                yield from (cause.problem for cause in behind if cause.resource == ref)

    def _by_resource(self, refs: Mapping[Ref, None]) -> Iterator[tuple[Ref, tuple[DanglingReference, ...]]]:
        """Resources with their dangling references."""
        return zip(refs, self._dangling(refs), strict=True)

    def _dangling(self, refs: Iterable[Ref]) -> Iterator[tuple[DanglingReference, ...]]:
        return dangling_by_resource(
            self._resources,
            refs,
            controller=self._controller(),
            faulty=self._faulty_place,
            sliced=self._sliced,
            listening=self._listening,
            unread=self._unread_place,
        )

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


def _behind(
    causes: Mapping[tuple[str, str], tuple[Cause, ...]], ref: Ref, degradation: Degradation
) -> tuple[Cause, ...]:
    """The faults because of which a condition of a resource is bad."""
    return causes.get((degradation.at, degradation.condition), ()) or _own(ref, degradation)


def _own(ref: Ref, degradation: Degradation) -> tuple[Cause, ...]:
    """What a bad condition says itself."""
    return tuple(Cause(ref, problem) for problem in degradation.problems)


def _refused_alike(lines: dict[_Line, tuple[Place, Transition]]) -> dict[_Line, int]:
    """Leave one line of those about resources of a kind that Envoy refuses for the same, or no longer.

    There may be thousands of them, for one setting of a policy.

    Returns:
        For how many other resources lines stand, where there are any.
    """
    first: dict[tuple[str, str, str], _Line] = {}
    others: dict[_Line, set[Ref]] = defaultdict(set)
    for line in list(lines):
        ref, change, cause = line
        if cause.problem.reason == REFUSED:
            one = first.setdefault((ref.kind, change, cause.problem.message), line)
            if one[0] != ref:
                others[one].add(ref)
                del lines[line]
    return {line: len(refs) for line, refs in others.items()}

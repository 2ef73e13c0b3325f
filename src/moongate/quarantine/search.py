"""The search for the entries of one joined resource that Envoys refuse.

Theory of operation
===================
Envoy takes or refuses a resource as a whole, and mostly does not say which of its entries is at fault. The
last version that all Envoys took is *good*; the entries in which a refused version differs from it are
*suspects*.

1. A single suspect is a *culprit*, and stays out of the resource.
2. Several suspects are all kept out, and wait. A fallback stands in the place of each: its last good form, or
   for a new route an answer with 500.
3. Envoys take what is left. Then some suspects are let in (``waiting`` has the order). If Envoys take that,
   these are good: go on with 3. If not, these are the suspects: go on with 1.

Entries that did not change stay in force all the time, and most of the good ones are back after a few
answers. One culprit among n entries costs about log(n) answers, k of them k·log(n).

Envoys may refuse the fallbacks as well. Then these are suspects, in a search of their own within the search
(a *phase*), and no entry is let in before it is over: a fallback may keep requests from a route that lets
everybody pass.

A patch of a resource is an entry of it, and may keep strangers out. So patches are tried before all else,
while fallbacks stand in the place of the other entries. Of a listener of which nothing was ever in force they
are tried last: without its other entries it is not handed out. Meanwhile no routes are (``fleets``).

What is kept out is written into cells that the builders of entries read (``xds.fallbacks``). So all other
entries may change in the meantime, and an edited culprit is tried at once, because it is another form.

Rules
=====
1. Each write of what is kept out begins an *era*. Only answers to versions of the present era say anything
   about what is in and what is out now.
2. An older version that all Envoys took is good as well, as long as its parts are known. If they are not
   known, more entries are suspects than necessary, and the search takes longer.
3. If Envoy refuses a resource in which nothing is suspect, the next suspects are let in all the same. Envoy
   may refuse the resource because it lacks them.
4. An Envoy may refuse a version of which all is good, and which another Envoy has in force. Then it is at
   odds with that one, and has no say any more. If no Envoy has the good version in force, that counts for
   nothing, and all entries are suspects.
5. A culprit is observed (``Concern``), and tried again when the resource is to have another form of it.
6. Where a resource was not sent because an Envoy lacks clusters, the entries that name these are at fault,
   and no others: nothing is searched for.
7. Some entries cannot be tried alone: without its head, or without any chain, a listener is not handed out.
   They are tried as the *company* of the next suspects. A culprit that was refused in company is tried again
   when any of the company changes.
8. What a former process had in force (``recall``) is good, too, until an Envoy refuses it. No Envoy of this
   process has it, so its forms stand in only where they let nothing pass that the entries would not.
9. A culprit may be one of thousands with the same setting of a policy. Those of them that wait are at fault
   as well, and are not tried one by one (``likeness``).
10. While a resource cannot be built, by a bug of moongate, what is handed out says nothing about what is in
    and what is out. Nothing is concluded, and nothing tried, until it is built again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

from moongate.engine import Failed
from moongate.fleet_inventory import STATUS
from moongate.quarantine.answers import NONE, Answers
from moongate.quarantine.likeness import Likeness
from moongate.quarantine.waiting import Trial, Waiting
from moongate.recent_versions import RecentVersions
from moongate.xds import listeners, patches, routes
from moongate.xds.fallbacks import Fallback, in_steps, withheld
from moongate.xds.patches import PATCHES
from moongate.xds.refusals import of_clusters
from moongate.xds.wire import LISTENER, ROUTE, SCOPE, has_string

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from moongate.api.base import FleetId
    from moongate.engine import Query, Root
    from moongate.quarantine.answers import Refused
    from moongate.world import World
    from moongate.xds.fallbacks import Concern, Group, Suspect
    from moongate.xds.patches import Call, Form

Lacks: TypeAlias = "tuple[tuple[str, str], ...]"
"""Clusters that an Envoy refuses, each with its message."""

Steps: TypeAlias = "Generator[None, None, bool]"
"""Work in steps of a moment each; it ends with whether the world is to be settled again."""


class Joined(NamedTuple):
    """How a type of resources is searched.

    Args:
        differing: what of the parts of a version is not in the parts of a good one; in steps.
        concern: whom one of these concerns; takes fleet, name of the resource, group and version.
        of_routes: whether these are entries of routes, which may have settings of a policy in common.
    """

    differing: Callable[[tuple[Any, ...], tuple[Any, ...]], Iterator[Sequence[Suspect]]]
    concern: Query[[FleetId, str, Any, str], Concern | None]
    of_routes: bool


JOINED: Final[Mapping[str, Joined]] = {
    LISTENER: Joined(listeners.differing, listeners.concern, of_routes=False),
    ROUTE: Joined(routes.differing, routes.concern, of_routes=True),
    SCOPE: Joined(routes.differing, routes.scope_concern, of_routes=True),
}
"""The types of resources that are joined from entries. Of others, only patches can be kept out."""


class Culprit(Struct):
    """An entry that is at fault."""

    suspect: Suspect
    node: str
    """The Envoy that refuses it."""
    message: str
    company: frozenset[str]
    """Its version, and those of its company."""
    lacks: frozenset[str] = frozenset()
    """The clusters that it needs, and the Envoy refuses."""


class _Version(Struct):
    """What a version is made from, and the era in which it was last current."""

    parts: tuple[Any, ...]
    patches: tuple[Form, ...]
    era: int


def _lacking(suspects: Sequence[Suspect], lacks: Lacks) -> list[tuple[Suspect, Lacks]]:
    """The suspects that need some clusters, each with those that it needs."""
    if not lacks:
        return []
    needs = [(each, tuple(one for one in lacks if has_string(each.body, one[0]))) for each in suspects]
    return [(suspect, some) for suspect, some in needs if some]


NOTHING: Final = _Version((), (), -1)


class Search:
    """What is known of one resource, and what is kept out of it.

    Args:
        world: has the resource, and the cells.
        at: fleet, type URL and name.
        nodes: the connected Envoys of the fleet, each with the time at which it came.
    """

    def __init__(self, world: World, at: tuple[FleetId, str, str], nodes: Mapping[str, int]) -> None:
        self._world = world
        self._at = at
        self._joined = JOINED.get(at[1])
        self.answers = Answers(nodes)
        self.culprits: dict[str, Culprit] = {}
        """By version of the entry."""
        self._good, self._good_version = NOTHING, NONE
        self._versions: RecentVersions[_Version] = RecentVersions()
        self._era = 0
        self._withheld: defaultdict[Group, dict[str, Fallback]] = defaultdict(dict)
        self._waiting = Waiting()
        self._likeness = Likeness()
        self._observed: dict[str, Root[Concern | None]] = {}
        """By version, the concern of each culprit and of its company."""
        self._companies: Counter[str] = Counter()
        """Of how many culprits each of these is the company."""
        self._gone: dict[str, None] = {}
        """Those of them that the resource is no longer to have."""
        self._last: Sequence[Suspect] = ()
        """The suspects that were let in last."""
        self._untried: list[Suspect] = []
        """Suspects that were let in before, when there was still nothing to hand out."""
        self._fruitless = (NONE, 0)
        """The version and era that was refused last with nothing to blame."""
        self._judged = NONE
        """The version of the resource when it was judged last."""

    @property
    def under_way(self) -> bool:
        """Whether something is still to be tried."""
        return bool(self._waiting) and not self._world.fails(*self._at)

    @property
    def doubts_patches(self) -> bool:
        """Whether a patch is kept out, or was just let in, that is still to be tried."""
        in_doubt = (*self._waiting, *self._last, *self._untried)
        return any(suspect.group == PATCHES for suspect in in_doubt)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is searched for or kept out, and the resource is as it was when it was judged."""
        resource = self._world.resource(*self._at)
        kept_out = self._waiting or self.culprits or self._withheld or self._last or self._untried
        return not kept_out and resource is not None and resource.version == self._judged

    @property
    def at_rest(self) -> bool:
        """Whether nothing is searched for, kept out, or known of one Envoy and not of the others."""
        return not (self._waiting or self.culprits or self._withheld or len(self.answers))

    def judge(self, now: int) -> Steps:
        """Go on as far as is known what Envoys say of the resource as it was last settled."""
        if self._world.fails(*self._at):
            return False
        resource = self._world.resource(*self._at)
        if resource is not None:
            self._note(resource.version)
            self._judged = resource.version
        if mended := self._mended():
            return (yield from self._let_in(mended))
        for refused in self.answers.refusals():
            version = self._versions.get(refused.version)
            if version is None or version.era != self._era:
                continue
            if (wrote := (yield from self._blame(refused, version))) is not None:
                return wrote
        if resource is None:
            # There is nothing to hand out, so no Envoy will answer.
            self._untried += self._last
            self._last = ()
            return (yield from self._go_on()) or False
        taken = self.answers.unanimous()
        if taken is None or (version := self._versions.get(taken)) is None:
            return False
        self._take(taken, version)
        if version.era == self._era:
            self._let_in_is_good()
        if taken == resource.version and not self._waiting:
            # During a search, a refused version may come again, and Envoy does not answer for it again.
            self.answers.agree(taken, now)
        # Also when what was let in made no difference, because users have edited it.
        return version.era == self._era and ((yield from self._go_on()) or False)

    def recall(self, parts: tuple[Any, ...], patches: tuple[Form, ...]) -> None:
        """Take what a former process had in force for good, before anything is handed out."""
        self._good = _Version(parts, patches, -1)

    def retry(self) -> None:
        """Try the culprits again in the next step: what they were refused for may be gone."""
        self.answers.forgive()
        self._fruitless = (NONE, 0)
        self._gone |= dict.fromkeys(self.culprits)

    def retry_with(self, cluster: str) -> None:
        """Try the culprits again that lacked a cluster."""
        lacked = [version for version, culprit in self.culprits.items() if cluster in culprit.lacks]
        if lacked:
            self.answers.forgive()
            self._gone |= dict.fromkeys(lacked)

    def drop(self) -> None:
        """Keep nothing out any more."""
        for culprit in list(self.culprits.values()):
            self._acquit(culprit)
        groups = list(self._withheld)
        self._withheld.clear()
        for group in groups:
            self._world.write(withheld(*self._at, group), None)

    def versions_kept(self) -> int:
        """Of how many versions the parts are kept."""
        return len(self._versions)

    # -- what Envoys say ----------------------------------------------------

    def _note(self, version: str) -> None:
        """Remember what the version in force is made from, as long as it may be answered."""
        made_from = self._world.parts(*self._at), self._world.patches(*self._at)
        self._versions.note(version, _Version(*made_from, self._era))

    def _take(self, taken: str, version: _Version) -> None:
        """All Envoys have a version in force: it is good, and no older one will be answered."""
        self._good, self._good_version = version, taken
        self._versions.acknowledge(taken)

    def _let_in_is_good(self) -> None:
        """All Envoys have in force what was let in last."""
        self._likeness.take((*self._untried, *self._last))
        self._untried.clear()
        self._last = ()
        self._waiting.taken_are_good()
        if not self._waiting:
            self._likeness = Likeness()

    def _blame(self, refused: Refused, version: _Version) -> Generator[None, None, bool | None]:
        """Find out who may be at fault. ``None`` when there is nothing to do about it."""
        if (refused.version, self._era) == self._fruitless:
            return None
        if refused.version == self._good_version:
            if self.answers.is_in_force_elsewhere(refused.node, self._good_version):
                self._pass_over(refused.node)
                return None
            self._good, self._good_version = NOTHING, NONE
        suspects: list[Suspect] = []
        for some in self._joined.differing(self._good.parts, version.parts) if self._joined else ():
            suspects += some
            yield
        if self._world.patched(*self._at) is not None:
            suspects += patches.differing(self._good.patches, version.patches)
        if not suspects and self._good_version == NONE and self._good is not NOTHING:
            # Envoy refuses what a former process had in force, so others may have been blamed for it.
            self._good = NOTHING
            if self.culprits:
                self.retry()
                return (yield from self._let_in(self._mended()))
            return (yield from self._blame(refused, version))
        if not suspects:
            if (wrote := (yield from self._go_on())) is not None:
                return wrote
            if self.answers.is_in_force_elsewhere(refused.node, refused.version):
                self._pass_over(refused.node)
                return None
            self._fruitless = refused.version, self._era
            return None
        if lacking := _lacking(suspects, refused.lacks):
            return (yield from self._condemn_lacking(lacking, refused))
        untried = [suspect for suspect in self._untried if suspect in suspects]
        others = [suspect for suspect in suspects if suspect not in untried] if untried else suspects
        if not others:
            others, untried = suspects, []
        let_in = {suspect.version for suspect in (*self._untried, *self._last)}
        self._untried.clear()
        self._last = ()
        self._waiting.taken_are_refused()
        if len(others) > 1:
            self._let_wait(others, untried, in_new_phase=not let_in)
        else:
            self._condemn(others[0], untried, refused)
            if untried:
                self._waiting.add(Trial(untried))
            else:
                suspects = [*suspects, *(yield from self._condemn_alike(others[0], refused))]
        # Where nothing was ever in force there is no "as before" that may go on.
        strict = len(others) == 1 or self._good_version == NONE
        wrote = yield from self._keep_out(suspects, refused.message, strict=strict)
        if len(others) > 1 and let_in.issuperset(suspect.version for suspect in suspects):
            # What is left was in force just now, so nobody needs to be asked about it.
            yield from self._go_on()
        return wrote

    def _condemn_lacking(self, lacking: Sequence[tuple[Suspect, Lacks]], refused: Refused) -> Steps:
        """Make culprits of the suspects that need clusters which an Envoy refuses."""
        # Of the others nothing is known yet: Envoy was not asked.
        forms = {suspect.version for suspect, _ in lacking}
        self._untried = [each for each in self._untried if each.version not in forms]
        self._last = [each for each in self._last if each.version not in forms]
        wrote = False
        for suspect, lacks in lacking:
            why = refused._replace(message=of_clusters(lacks), lacks=lacks)
            self._condemn(suspect, (), why)
            wrote |= yield from self._keep_out([suspect], why.message, strict=True)
        return wrote

    def _condemn_alike(self, culprit: Suspect, refused: Refused) -> Generator[None, None, Sequence[Suspect]]:
        """Make culprits of the suspects that wait and that are at fault for the same settings as one."""
        if self._joined is None or not self._joined.of_routes or culprit.group == PATCHES:
            return ()
        # What a former process had in force says nothing about these Envoys.
        waiting = [each for each in self._waiting if each.group != PATCHES]
        if self._good_version == NONE or not waiting:
            return ()
        alike = yield from self._likeness.condemn(culprit, waiting, self._waiting.next_ones())
        for some in in_steps(alike.guilty):
            for each in some:
                self._condemn(each, alike.models, refused)
            yield
        self._waiting.remove({each.version for each in alike.guilty})
        if alike.sample is not None:
            self._waiting.try_next(alike.sample)
        return alike.guilty

    def _pass_over(self, node: str) -> None:
        """An Envoy has no say any more. The culprits that it refused are tried again without it."""
        self.answers.put_at_odds(node)
        blamed = [culprit for culprit in self.culprits.values() if culprit.node == node]
        for culprit in blamed:
            self._acquit(culprit)
        if blamed:
            self._waiting.add(Trial([culprit.suspect for culprit in blamed]), in_new_phase=True)

    # -- culprits -----------------------------------------------------------

    def concerns(self) -> Iterator[tuple[Culprit, Concern]]:
        """The culprits, and whom each concerns, as far as that is known."""
        for culprit in self.culprits.values():
            concern = self._observed[culprit.suspect.version].value
            if concern is not None and not isinstance(concern, Failed):
                yield culprit, concern

    def _condemn(self, suspect: Suspect, company: Sequence[Suspect], refused: Refused) -> None:
        """Make a suspect a culprit, and observe it and its company."""
        for each in (suspect, *company):
            if each.version not in self._observed:
                self._observed[each.version] = self._world.observers.observe(
                    *self._concern(each), STATUS, partial(self._note_gone, each.version)
                )
        versions = frozenset(each.version for each in (suspect, *company))
        self._companies.update(versions)
        lacks = frozenset(cluster for cluster, _ in refused.lacks)
        former = self.culprits.get(suspect.version)
        self.culprits[suspect.version] = Culprit(suspect, refused.node, refused.message, versions, lacks)
        if former is not None:
            self._leave(former.company)

    def _concern(self, suspect: Suspect) -> Call:
        """Whom an entry concerns."""
        if suspect.group == PATCHES:
            target = self._world.patched(*self._at)
            assert target is not None, "of a resource that is no longer patched, no patch is suspected"
            return patches.concern, (target, suspect.version)
        assert self._joined is not None, "nothing else is suspected of a resource that is not joined"
        return self._joined.concern, (self._at[0], self._at[2], suspect.group, suspect.version)

    def _note_gone(self, version: str, root: Root[Concern | None]) -> None:
        """Note that the resource is no longer to have an entry."""
        if root.value is None:
            self._gone[version] = None

    def _acquit(self, culprit: Culprit) -> None:
        del self.culprits[culprit.suspect.version]
        self._leave(culprit.company)

    def _leave(self, company: frozenset[str]) -> None:
        """A culprit with this company is none any more: observe none of it in vain."""
        self._companies.subtract(company)
        for version in company:
            if not self._companies[version]:
                del self._companies[version]
                self._world.observers.release(self._observed.pop(version))

    def _mended(self) -> list[Suspect]:
        """Acquit the culprits that are gone from the resource, or whose company is, in the form refused."""
        if not self._gone:
            return []
        mended = [each for each in self.culprits.values() if not each.company.isdisjoint(self._gone)]
        self._gone.clear()
        for culprit in mended:
            self._acquit(culprit)
        return [culprit.suspect for culprit in mended]

    # -- cells --------------------------------------------------------------

    def _keep_out(self, suspects: Sequence[Suspect], message: str, *, strict: bool) -> Steps:
        for some in in_steps(suspects):
            for suspect in some:
                fallback = Fallback(suspect.last_good, strict or not suspect.steady, message)
                self._withheld[suspect.group][suspect.version] = fallback
            yield
        return (yield from self._write(suspects))

    def _let_wait(
        self, suspects: Sequence[Suspect], company: Sequence[Suspect], *, in_new_phase: bool
    ) -> None:
        """Let wait what was refused together."""
        entries = [suspect for suspect in suspects if suspect.group != PATCHES]
        of_patches = [suspect for suspect in suspects if suspect.group == PATCHES]
        if not entries or not of_patches:
            self._waiting.add(Trial(suspects, company, guilty=True), in_new_phase=in_new_phase)
            return
        first, last = of_patches, entries
        if self._at[1] == LISTENER and self._good_version == NONE:
            first, last = last, first
        self._waiting.add(Trial(last), in_new_phase=in_new_phase)
        self._waiting.add(Trial(first, company), in_new_phase=True)

    def _go_on(self) -> Generator[None, None, bool | None]:
        """Let in the next of those that wait. ``None`` when none does."""
        # While nothing is in force, an entry may be tried in vain without those before it.
        self._last = self._waiting.take(newest=self._good_version == NONE)
        return (yield from self._let_in(self._last)) if self._last else None

    def _let_in(self, suspects: Sequence[Suspect]) -> Steps:
        for some in in_steps(suspects):
            for suspect in some:
                self._withheld[suspect.group].pop(suspect.version, None)
            yield
        return (yield from self._write(suspects))

    def _write(self, suspects: Sequence[Suspect]) -> Steps:
        """Write what is kept out of the groups of some entries into their cells."""
        self._era += 1
        for some in in_steps(suspects):
            for group in dict.fromkeys(suspect.group for suspect in some):
                self._world.write(withheld(*self._at, group), dict(self._withheld[group]) or None)
                if not self._withheld[group]:
                    del self._withheld[group]
            yield
        return True

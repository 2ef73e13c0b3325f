"""The engine: pure functions over tracked reads, recomputed where what they read has changed.

Theory of operation
===================
A *cell* holds an input. A *query* is a pure function of its arguments and of what it reads through ``db``.
Reading records an edge. Writing a cell marks its direct readers STALE and everything above them SUSPECT, and
each marked node notes which of its reads is in doubt; nothing runs then. What is above may be most of the
graph, so it is marked later, in slices, and at the latest when somebody asks.

Asking for a query's value settles it. CLEAN answers at once. SUSPECT first settles the reads that are in
doubt (those only, so the bookkeeping grows with the change and not with the fan-in) and re-runs only if one
of their values really changed. STALE re-runs. A re-run that yields an equal value leaves its readers alone:
salsa calls this backdating.

Settling walks an explicit stack and can stop after every run (``Db.settle`` is a generator), so a long
recomputation is cut in slices: whoever drives it may write cells and settle other nodes in between, or never
come back. A doubt is struck out only once it is settled, so nothing is lost with the stack.

A query may read thousands of calls that are all new, and its run computes each of them within it. So a query
that joins many calls names them together (``Query.each``). When a step has done as much as ``STEP`` says,
such a join is *postponed*: it raises ``Postponed``, which gives up the query and the queries that called it.
The calls that these joins still lack are settled first, each in a step of its own, and then the outermost
query runs again. Queries are pure, so giving one up is allowed. It repeats only the query's own code up to
the join: the calls that the step has settled keep their values, so each step makes progress.

An *urgent* write marks the nearest readers at once, and the *eager* roots among them have a queue of their
own, for ``next_urgent``. They do not wait for roots that are in doubt for other reasons, nor until those are
marked.

A query that raises is contained: its value is a ``Failed``. Reading it from another query raises
``Contained`` there, so the failure travels up as a value until somebody reads with ``attempt``.

A reader that must go on without a failed query reads its ``last_good`` value: a part of a whole then stays as
it was, while the other parts change. Such a result depends on history, but only as long as the query fails.

A query that reads itself, through others or not, fails with ``Cycle``, as do all on the circle.

Invariant
---------
All that a CLEAN node has read is CLEAN, and has the value that was read. The only exception: the node is not
marked yet, and then a node below it waits in ``propagation``.

Facts
-----
* one thread: call it from the event loop that owns it, never from two
* equality is ``==``, so results must be values: frozen Structs, tuples, bytes, str, int
* a read in doubt may be settled although the next run will not read it any more (a deleted route, say):
  queries have an answer for what does not exist, so this costs a run and never gives a wrong value
* what nobody observes or reads any more is dropped by ``collect``
* no step walks all roots, and to add or drop one reader of a node does not walk the others. But when a value
  changes, all direct readers of its node are marked at once
* a step does little more than ``STEP`` says, as long as queries read many others only by ``each``
* a query starts again after each of its postponed joins, so it should name all its calls in one join
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moongate.engine.demand import Demand
from moongate.engine.failures import Contained, Cycle, Failed, FailuresInForce, Postponed, failure
from moongate.engine.nodes import ABSENT, CLEAN, RUNNING, STALE, SUSPECT, Node
from moongate.engine.propagation import STRIDE, Propagation
from moongate.engine.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from moongate.engine.queries import Query
    from moongate.engine.roots import Root

T = TypeVar("T")

STEP: Final = 200
"""How many runs and reads together a step may do before a join is postponed. They take about 1 ms."""

_UNLIMITED: Final = 1 << 62
"""What is left where no step is limited, because nobody could settle something else first."""


class Db:
    """Cells, memos and the edges between them.

    Args:
        clock: seconds, monotonic; only for the figures in ``seconds``.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._cells: dict[Hashable, Node] = {}
        self._memos: defaultdict[Query[..., Any], dict[tuple[Any, ...], Node]] = defaultdict(dict)
        self._running: list[Node] = []
        self._reads: dict[Node, None] = {}
        """What the innermost running query has read so far."""
        self._roots = Roots()
        self._propagation = Propagation(self._roots)
        self._failures = FailuresInForce()
        self._demands: list[Demand[Any]] = []
        self._orphans: dict[Node, None] = {}
        self._circles: dict[Node, Failed] = {}
        self._left = _UNLIMITED
        """What is left of ``STEP``."""
        self._clock = clock
        self._nested = 0.0
        self.counts: Counter[str] = Counter()
        """Runs so far, by query name."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Seconds spent in a query's own code so far (what it called is counted there), by query name."""

    # -- cells ------------------------------------------------------------

    def put(self, key: Hashable, value: Any, *, urgent: bool = False) -> bool:
        """Write an input; ``None`` is the same as absent. True if that was a change.

        Args:
            key: which cell.
            value: what it holds from now on.
            urgent: whether the eager roots that this puts in doubt go before all others. Readers of the cell
                and the readers of these are always found. Roots further above are found only if they are few,
                and if nothing on the way to them is in doubt for another reason.
        """
        assert not self._running, "a query must not write"
        node = self._cells.get(key)
        if node is None:
            if value is not None:
                self._cells[key] = Node(None, key, value, CLEAN)
            return value is not None
        if node.value == value:
            return False
        node.value = value
        if urgent:
            self._propagation.changed_urgently(node)
        else:
            self._propagation.changed(node)
        if value is None and not node.has_readers:
            del self._cells[key]
        return True

    def read(self, key: Hashable) -> Any:
        """The value of a cell, ``None`` when absent (and the reader learns when it appears)."""
        node = self._cells.get(key)
        if not self._running:
            return None if node is None else node.value
        if node is None:
            node = self._cells[key] = Node(None, key, None, CLEAN)
        self._reads[node] = None
        return node.value

    def demand(self, concerns: Callable[[Any], bool]) -> Demand[Any]:
        """Follow from now on which cells queries read, of those whose keys ``concerns`` accepts.

        A query that nobody observes any more counts as a reader until ``collect`` has dropped it.
        """
        demand = Demand[Any](self._cells, concerns)
        self._demands.append(demand)
        return demand

    # -- queries ----------------------------------------------------------

    def value_of(self, query: Query[..., T], args: tuple[Any, ...]) -> T | Failed:
        """Settle a query call, record the read, answer its value."""
        running = self._running
        if not running:
            self._propagation.finish()
        # Most calls are known and settled, so the way to their value is short.
        memos = self._memos[query]
        node = memos.get(args)
        if node is None:
            node = memos[args] = Node(query, args, ABSENT, STALE)
        state = node.state
        if state == CLEAN:
            pass
        elif state == STALE and not node.suspects:
            self._run(node)
        elif state != RUNNING:
            for _ in self._settle(node):
                pass
        if running:
            self._reads[node] = None
            if state == RUNNING:
                raise self._cycle(node)
        elif not node.has_readers and node.root is None:
            self._orphans[node] = None
        return node.value

    def values_of(self, query: Query[..., T], calls: Iterable[tuple[Any, ...]]) -> list[T | Failed]:
        """Settle many calls of a query, record the reads, answer their values in order.

        Raises:
            Postponed: the step has done enough; the caller runs again after these calls are settled.
        """
        values: list[T | Failed] = []
        listed = list(calls)
        memos, reads = self._memos[query], self._reads if self._running else None
        for place, args in enumerate(listed):
            node = memos.get(args)
            if node is not None and node.state == CLEAN and reads is not None:
                # As in ``value_of``: a join has hundreds of calls, and all but one are settled.
                reads[node] = None
                values.append(node.value)
                continue
            if self._left <= 0 and self._node(query, args).state in (STALE, SUSPECT):
                raise Postponed(self._in_doubt(query, listed[place:]))
            try:
                values.append(self.value_of(query, args))
            except Postponed as postponed:
                # The caller will run again too. Then it finds all its calls settled.
                postponed.first += self._in_doubt(query, listed[place:])
                raise
        return values

    def _in_doubt(self, query: Query[..., Any], calls: list[tuple[Any, ...]]) -> list[Node]:
        nodes = [self._node(query, args) for args in calls]
        return [node for node in nodes if node.state != CLEAN]

    def last_good(self, query: Query[..., T], args: tuple[Any, ...]) -> T | Failed:
        """As ``value_of``; while the call fails, its last value before it failed, if it had one."""
        value = self.value_of(query, args)
        return self._failures.last_good(self._memos[query][args]) if isinstance(value, Failed) else value

    def _node(self, query: Query[..., Any], args: tuple[Any, ...]) -> Node:
        memos = self._memos[query]
        node = memos.get(args)
        if node is None:
            node = memos[args] = Node(query, args, ABSENT, STALE)
        return node

    def _settle(self, root: Node) -> Iterator[None]:
        """Bring ``root`` to CLEAN. Stops after each run, and after ``STRIDE`` nodes without one."""
        stack, on_stack = [root], {root}
        looks = 0
        # A postponed join ends all runs around it, so only the settle outside of them keeps its stack.
        outermost = not self._running
        while stack:
            looks += 1
            if looks % STRIDE == 0:
                yield
            node = stack[-1]
            suspects = node.suspects
            if node.state == CLEAN:
                on_stack.discard(stack.pop())
            elif suspects:
                # The last one, and removed by popitem: in a dict, Python walks over all deleted entries
                # before the first one, and after the last one unless popitem removed them.
                read = next(reversed(suspects))
                if read.state == CLEAN:
                    suspects.popitem()
                elif read in on_stack or read.state == RUNNING:
                    # A circle, or a circle that the changes have opened: only a run shows which.
                    suspects.popitem()
                    node.state = STALE
                else:
                    stack.append(read)
                    on_stack.add(read)
            elif node.state == SUSPECT:
                node.state = CLEAN
                node.suspects = None
            elif outermost:
                first = self._step(node, on_stack)
                stack += reversed(first)
                on_stack.update(first)
                yield
            else:
                self._run(node)
                yield

    def _step(self, node: Node, on_stack: set[Node]) -> list[Node]:
        """Run a call. If a join is postponed, return the nodes to settle before it runs again."""
        self._left = STEP
        try:
            self._run(node)
        except Postponed as postponed:
            first = list(dict.fromkeys(each for each in postponed.first if each not in on_stack))
            for each in first:
                self._note_orphan(each)
            # Empty if all of them are on the stack already, because calls wait for each other. Then it runs
            # again at once. It gets further, as this step's results are kept, until it reaches the circle.
            return first
        finally:
            self._left = _UNLIMITED
        return []

    def _run(self, node: Node) -> None:
        query, args, before = node.query, node.key, node.value
        assert query is not None
        outer, self._reads = self._reads, {}
        clock, nested = self._clock, self._nested
        self._nested = 0.0
        started = clock() if clock else 0.0
        self._running.append(node)
        node.state = RUNNING
        try:
            value = query.fn(self, *args)
        except Contained as contained:
            value = contained.failed
        except Postponed:
            self._give_up(node)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a query raises is contained, that is the point
            value = failure(query.name, args, error)
        finally:
            node.state = STALE
            self._running.pop()
            reads, self._reads = self._reads, outer
        if self._circles:
            value = self._circles.pop(node, value)
        if clock:
            took = clock() - started
            self.seconds[query.name] += took - self._nested
            self._nested = nested + took
        self.counts[query.name] += 1
        self._left -= 1 + len(reads)
        self._rewire(node, reads)
        # Nothing is written during a run, and each read was settled before it was read. So this value is
        # current, and doubts from the reads of the former run are obsolete.
        node.state = CLEAN
        node.suspects = None
        if before.__class__ is Failed or value.__class__ is Failed:
            self._failures.note(node, value, before)
        if before is ABSENT or value != before:
            node.value = value
            if node.has_readers:
                self._propagation.changed(node)

    def _give_up(self, node: Node) -> None:
        """Note what nobody reads if the innermost running query never runs again."""
        self._circles.pop(node, None)
        for each in (*self._reads, node):
            self._note_orphan(each)

    def _note_orphan(self, node: Node) -> None:
        if not node.has_readers and node.root is None:
            self._orphans[node] = None

    def _rewire(self, node: Node, reads: dict[Node, None]) -> None:
        before = node.reads
        node.reads = now = tuple(reads)
        if now == before:
            return
        known = set(before) if before else before
        for read in now:
            if read not in known and read.add_reader(node) and read.query is None and self._demands:
                self._note_demand(read)
        for read in before:
            if read not in reads:
                self._drop_edge(read, node)

    def _drop_edge(self, read: Node, reader: Node) -> None:
        read.drop_reader(reader)
        if not read.has_readers and read.root is None:
            self._orphans[read] = None
            if read.query is None:
                self._note_demand(read)

    def _note_demand(self, cell: Node) -> None:
        for demand in self._demands:
            demand.note((cell.key,))

    def _cycle(self, node: Node) -> Cycle:
        """The exception for a read that closes a circle.

        All queries on the circle get the same failure, wherever it was entered, and also if they read by
        ``attempt``.
        """
        circle = self._running[self._running.index(node) :]
        first = min(range(len(circle)), key=lambda n: repr(circle[n]))
        circle = circle[first:] + circle[:first]
        cycle = Cycle("queries read each other in a circle: " + " -> ".join(map(repr, [*circle, circle[0]])))
        assert circle[0].query is not None
        failed = failure(circle[0].query.name, circle[0].key, cycle)
        for member in circle:
            other = self._circles.get(member, failed)
            self._circles[member] = min(failed, other, key=lambda f: f.error)
        return cycle

    # -- roots ------------------------------------------------------------

    def observe(
        self,
        query: Query[..., T],
        *args: Any,
        rank: int = 0,
        eager: bool = False,
        owner: Hashable = None,
    ) -> Root[T]:
        """Keep a query call alive, and let ``next_dirty`` name it when its value is in doubt.

        A new root counts as in doubt. Observing twice gives the same root, which one ``release`` ends.

        Args:
            query: what to observe.
            args: its arguments.
            rank: roots with a lower rank are settled first.
            eager: whether ``next_urgent`` names it when an urgent write puts it in doubt. The first value is
                never urgent, nor one after ``None``.
            owner: whose root it is, for ``has_news_for``.
        """
        return self._roots.add(self._node(query, args), rank, owner, eager=eager)

    def release(self, root: Root[Any]) -> None:
        """Stop observing; ``collect`` drops what only this root read."""
        if root in self._roots:
            self._roots.remove(root)
            if not root.node.has_readers:
                self._orphans[root.node] = None

    def requeue(self, root: Root[Any]) -> None:
        """Let ``next_dirty`` name a root even if it is settled, because its observer wants to look again."""
        if root in self._roots:
            self._roots.enqueue(root)

    def defer(self, root: Root[Any]) -> None:
        """Let ``next_dirty`` name a root that ``next_urgent`` would name."""
        self._roots.defer(root)

    def has_news_for(self, owner: Hashable) -> bool:
        """Whether a root of an owner waits to be settled, as far as changes have been propagated."""
        return self._roots.has_queued(owner)

    def next_urgent(self) -> Root[Any] | None:
        """The first of the eager roots that an urgent write has put in doubt."""
        return self._roots.next_urgent()

    def next_dirty(self) -> Root[Any] | None:
        """Of all other roots in doubt, one of the lowest rank; among these, the one longest in doubt.

        This marks all that is not marked yet. To do that in slices, call ``propagate`` before.
        """
        self._propagation.finish()
        return self._roots.next_dirty()

    def next_marked(self) -> Root[Any] | None:
        """As ``next_dirty``, but ``None`` as long as there is something to mark."""
        return None if self._propagation.waiting else self._roots.next_dirty()

    def propagate(self) -> Iterator[None]:
        """Mark in slices what writes have put in doubt but not marked yet."""
        return self._propagation.slices()

    @property
    def propagated(self) -> bool:
        """Whether all is marked that writes have put in doubt."""
        return not self._propagation.waiting

    def settle(self, root: Root[Any]) -> Iterator[None]:
        """Settle a root. Stops after each run at the latest, so that the caller can do something else."""
        urgent = self._roots.is_urgent(root)
        while root.node.state != CLEAN or not (urgent or self.propagated):
            if not urgent:
                yield from self.propagate()
            yield from self._settle(root.node)
        self._roots.dequeue(root)
        root.urgent, root.valued = urgent, root.value is not None

    def collect(self, most: int | None = None) -> int:
        """Drop what nobody observes or reads any more.

        Args:
            most: after how much work to stop: each node counts, and each read of one that is dropped. Some
                of the nodes may have readers again, and stay.

        Returns:
            How much work it was; 0 if there was nothing to drop.
        """
        work = 0
        while self._orphans and (most is None or work < most):
            node, _ = self._orphans.popitem()
            work += 1
            if not node.has_readers and node.root is None:
                work += len(node.reads)
                self._forget(node)
        return work

    def _forget(self, node: Node) -> None:
        """Drop a node that has no readers, if it is still held."""
        if node.query is None:
            if node.value is None and self._cells.get(node.key) is node:
                del self._cells[node.key]
            return
        memos = self._memos.get(node.query, {})
        if memos.get(node.key) is not node:
            return
        del memos[node.key]
        if not memos:
            del self._memos[node.query]
        if node.value.__class__ is Failed:
            self._failures.note(node, None)
        for read in node.reads:
            self._drop_edge(read, node)
        node.reads = ()
        # A settle that has stopped half-way may come back to it, and then has nothing to do.
        node.state = CLEAN
        node.suspects = None

    # -- answers about itself ----------------------------------------------

    def __len__(self) -> int:
        """Nodes held: cells and memoized calls."""
        return len(self._cells) + sum(map(len, self._memos.values()))

    @property
    def failures(self) -> Mapping[str, Failed]:
        """Failures in force, by the call that failed; only those where they began."""
        return self._failures.origins

    def failed_calls(self) -> Iterator[tuple[tuple[Any, ...], Failed]]:
        """The arguments of each call that fails now, with its failure, which may come from a read."""
        return self._failures.calls()

    def calls(self) -> Iterator[tuple[Query[..., Any], tuple[Any, ...]]]:
        """All calls that are memoized: query and arguments."""
        return ((query, args) for query, memos in self._memos.items() for args in memos)

    def reads(self, query: Query[..., Any], *args: Any) -> tuple[str, ...]:
        """What a call read when it last ran, in that order, as text."""
        node = self._memos.get(query, {}).get(args)
        return () if node is None else tuple(map(repr, node.reads))

    def graph(self) -> Mapping[str, tuple[str, ...]]:
        """Who read what: each memoized call with its reads, as text."""
        return {
            repr(node): tuple(map(repr, node.reads))
            for memos in self._memos.values()
            for node in memos.values()
        }

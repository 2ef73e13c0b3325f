"""Incremental computation: pure functions over tracked reads.

Theory of operation
===================
A *cell* holds an input. A *query* is a pure function of its arguments and of what it reads through
``db``. Reading records an edge. Writing a cell paints its direct readers STALE and everything above
them SUSPECT, and each painted node notes which of its reads is in doubt; nothing runs then. What is above
may be most of the graph, so it is painted later, in slices, and at the latest when somebody asks.

Asking for a query's value settles it. CLEAN answers at once. SUSPECT first settles the reads that are
in doubt (those only, so the bookkeeping grows with the change and not with the fan-in) and re-runs
only if one of their values really changed. STALE re-runs. A re-run that yields an equal value leaves
its readers alone: salsa calls this backdating.

Settling walks an explicit stack and can stop after every run (``Db.settle`` is a generator), so a long
recomputation is cut in slices: whoever drives it may write cells and settle other nodes in between, or
never come back. A doubt is struck out only once it is settled, so nothing is lost with the stack.

An *urgent* write paints what is near by at once, and the *eager* roots there queue apart, for
``next_urgent``: they wait neither for those that are in doubt for other reasons nor for their paint.

A query that raises is contained: its value is a ``Failed``. Reading it from another query raises
``Contained`` there, so the failure travels up as a value until somebody reads with ``attempt``.

A query that reads itself, through others or not, fails with ``Cycle``, as do all on the circle.

Invariant
---------
What a CLEAN node read last is CLEAN, and has the value that was read; or it has still to be painted, and
then what puts it in doubt is noted as unpainted.

Facts
-----
* one thread: call it from the event loop that owns it, never from two
* equality is ``==``, so results must be values: frozen Structs, tuples, bytes, str, int
* a read in doubt may be settled although the re-run will no longer want it (a deleted route, say): queries
  answer for things that are gone, so this costs a run and never a wrong answer
* what nobody observes or reads any more is dropped by ``collect``
"""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter, OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")

CLEAN: Final = 0
SUSPECT: Final = 1
STALE: Final = 2

STRIDE: Final = 256
"""Nodes that are painted or found to be as they were before the driver has its turn: well below 1 ms."""

_ABSENT: Final[Any] = object()


class Failed(Struct, frozen=True):
    """The value of a query that raised.

    It says what kind of exception was raised and where, and never the text of the exception: that may quote
    what the query had read, and among the inputs are secrets.

    Args:
        query: name of the query that raised first; failures above it carry the same one.
        args: its arguments, as text. They are keys, so they are no secrets.
        id: a short name for this failure, the same wherever it is shown: status, log, console.
        error: the type of the exception, and where it was raised.
        trace: the frames it came through, for the log.
    """

    query: str
    args: str
    id: str
    error: str
    trace: str


class Contained(Exception):  # noqa: N818 - not an error of its own: it carries one through a reader
    """Raised in a query that read a failed one without ``attempt``."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"{failed.query}{failed.args} failed: {failed.error}")
        self.failed = failed


class Cycle(Exception):  # noqa: N818
    """Queries that read each other in a circle."""


class Node:
    """A cell or a memoized query call."""

    __slots__ = ("key", "observed", "paint", "readers", "reads", "suspects", "value")

    def __init__(self, key: Any, value: Any, paint: int) -> None:
        self.key = key
        self.value = value
        self.paint = paint
        self.observed = False
        self.reads: tuple[Node, ...] = ()
        self.readers: dict[Node, None] = {}
        self.suspects: dict[Node, None] | None = None

    def __repr__(self) -> str:
        if _is_query_key(self.key):
            return f"{self.key[0].name}{self.key[1]!r}"
        return f"cell {self.key!r}"


class Query(Generic[P, T]):
    """A tracked function; call it as ``fn(db, *args)``. Arguments are positional: they are the key."""

    def __init__(self, fn: Callable[Concatenate[Db, P], T]) -> None:
        self.fn: Callable[..., T] = fn
        self.name = fn.__name__
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__

    def __call__(self, db: Db, *args: P.args, **kwargs: P.kwargs) -> T:
        """The settled value. Raises ``Contained`` where it failed."""
        value = db.value_of(self, args)
        if isinstance(value, Failed):
            raise Contained(value)
        return value

    def attempt(self, db: Db, *args: P.args, **kwargs: P.kwargs) -> T | Failed:
        """The settled value, or the failure as a value: where a failure stops travelling up."""
        return db.value_of(self, args)

    def __repr__(self) -> str:
        return self.name


def query(fn: Callable[Concatenate[Db, P], T]) -> Query[P, T]:
    """Make a pure function of ``db`` and hashable keys a tracked one."""
    return Query(fn)


class Root(Generic[T]):
    """A query that somebody outside observes; the ``Db`` names it while its value is in doubt."""

    __slots__ = ("eager", "node", "rank", "urgent", "valued")

    def __init__(self, node: Node, rank: int, *, eager: bool) -> None:
        self.node = node
        self.rank = rank
        self.eager = eager
        self.urgent = False
        """Whether it was last settled because of an urgent write."""
        self.valued = False
        """Whether it had a value, and not ``None``, when it was last settled to the end."""

    @property
    def value(self) -> T | Failed | None:
        """The value as last settled, ``None`` before the first time; it does not settle."""
        value = self.node.value
        return None if value is _ABSENT else value


class Db:
    """Cells, memos and the edges between them.

    Args:
        clock: seconds, monotonic; only for the figures in ``seconds``.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._cells: dict[Hashable, Node] = {}
        self._memos: dict[tuple[Query[..., Any], tuple[Any, ...]], Node] = {}
        self._running: list[Node] = []
        self._reading: list[dict[Node, None]] = []
        self._roots: dict[Node, Root[Any]] = {}
        # Ordered, because the first of a plain dict is found by walking over all that were taken before it.
        self._dirty: dict[int, OrderedDict[Root[Any], None]] = {}
        self._urgent: OrderedDict[Root[Any], None] = OrderedDict()
        self._orphans: dict[Node, None] = {}
        self._circles: dict[Node, Failed] = {}
        self._clock = clock
        self._nested = 0.0
        self.unpainted: list[Node] = []
        """Nodes whose readers have still to be painted."""
        self.counts: Counter[str] = Counter()
        """Runs so far, by query name."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Seconds spent in a query's own code so far (what it called is counted there), by query name."""
        self.failures: dict[str, Failed] = {}
        """Failures in force, by the call that failed; only those where they began."""
        self._failed: dict[Node, Failed] = {}
        self.failing = 0
        """Grows whenever a call begins to fail, fails otherwise, or fails no more."""

    # -- cells ------------------------------------------------------------

    def put(self, key: Hashable, value: Any, *, urgent: bool = False) -> bool:
        """Write an input; ``None`` is the same as absent. True if that was a change.

        Args:
            key: which cell.
            value: what it holds from now on.
            urgent: whether the eager roots that this puts in doubt go before all others. That is meant for
                roots near by: only as many readers are followed as a moment allows, and above the direct
                ones only as far as nothing is in doubt for another reason. Who reads a reader of the cell is
                always found.
        """
        assert not self._running, "a query must not write"
        node = self._cells.get(key)
        if node is None:
            if value is not None:
                self._cells[key] = Node(key, value, CLEAN)
            return value is not None
        if node.value == value:
            return False
        node.value = value
        if urgent:
            self._changed(node, above := [], urgent=True)
            self._paint_urgently(above)
        else:
            self._changed(node, self.unpainted)
        if value is None and not node.readers:
            del self._cells[key]
        return True

    def read(self, key: Hashable) -> Any:
        """The value of a cell, ``None`` when absent (and the reader learns when it appears)."""
        node = self._cells.get(key)
        if node is None:
            if not self._running:
                return None
            node = self._cells[key] = Node(key, None, CLEAN)
        if self._running:
            self._reading[-1][node] = None
            node.readers[self._running[-1]] = None
        return node.value

    # -- queries ----------------------------------------------------------

    def value_of(self, query: Query[..., T], args: tuple[Any, ...]) -> T | Failed:
        """Settle a query call, record the read, answer its value."""
        if not self._running:
            self._finish_painting()
        node = self._node(query, args)
        if node.paint != CLEAN and node not in self._running:
            for _ in self._settle(node):
                pass
        if self._running:
            self._reading[-1][node] = None
            node.readers[self._running[-1]] = None
            if node in self._running:
                raise self._cycle(node)
        elif not node.readers and not node.observed:
            self._orphans[node] = None
        return node.value

    def _node(self, query: Query[..., Any], args: tuple[Any, ...]) -> Node:
        key = (query, args)
        node = self._memos.get(key)
        if node is None:
            node = self._memos[key] = Node(key, _ABSENT, STALE)
        return node

    def _settle(self, root: Node) -> Iterator[None]:
        """Bring ``root`` to CLEAN, stopping after each run, and now and then between two."""
        stack, on_stack = [root], {root}
        looks = 0
        while stack:
            looks += 1
            if looks % STRIDE == 0:
                yield
            node = stack[-1]
            suspects = node.suspects
            if node.paint == CLEAN:
                on_stack.discard(stack.pop())
            elif suspects:
                read = next(reversed(suspects))
                if read.paint == CLEAN:
                    del suspects[read]
                elif read in on_stack or read in self._running:
                    # A circle, or what once was a part of one: only a run can tell.
                    del suspects[read]
                    node.paint = STALE
                else:
                    stack.append(read)
                    on_stack.add(read)
            elif node.paint == SUSPECT:
                node.paint = CLEAN
                node.suspects = None
            else:
                self._run(node)
                yield

    def _run(self, node: Node) -> None:
        query, args = node.key
        reads: dict[Node, None] = {}
        before = node.value
        self._running.append(node)
        self._reading.append(reads)
        clock, nested = self._clock, self._nested
        self._nested = 0.0
        started = clock() if clock else 0.0
        try:
            value = query.fn(self, *args)
        except Contained as contained:
            value = contained.failed
        except Exception as error:  # noqa: BLE001 - whatever a query raises is contained, that is the point
            value = _failure(query.name, args, error)
        finally:
            self._running.pop()
            self._reading.pop()
        if (circle := self._circles.pop(node, None)) is not None:
            value = circle
        if clock:
            took = clock() - started
            self.seconds[query.name] += took - self._nested
            self._nested = nested + took
        self.counts[query.name] += 1
        self._rewire(node, reads)
        # No write can happen during a run and each read was settled before it was read, so whatever an
        # edge of the run before this one has painted meanwhile is already accounted for.
        node.paint = CLEAN
        node.suspects = None
        if before.__class__ is Failed or value.__class__ is Failed:
            self._note_failure(node, value)
        if before is _ABSENT or value != before:
            node.value = value
            self._changed(node, self.unpainted)

    def _rewire(self, node: Node, reads: dict[Node, None]) -> None:
        for gone in node.reads:
            if gone not in reads:
                gone.readers.pop(node, None)
                if not gone.readers and not gone.observed:
                    self._orphans[gone] = None
        node.reads = tuple(reads)

    def failed_calls(self) -> Iterator[tuple[tuple[Any, ...], Failed]]:
        """The arguments of each call that fails just now, with its failure, which may have begun below it."""
        return ((node.key[1], failed) for node, failed in self._failed.items())

    def _note_failure(self, node: Node, value: Any) -> None:
        self.failing += 1
        self.failures.pop(repr(node), None)
        self._failed.pop(node, None)
        if value.__class__ is Failed:
            self._failed[node] = value
        if value.__class__ is Failed and value.query == node.key[0].name and value.args == repr(node.key[1]):
            self.failures[repr(node)] = value

    def _changed(self, node: Node, above: list[Node], *, urgent: bool = False) -> None:
        """Paint direct readers STALE, and note those whose own readers have still to be painted.

        Never further, for what is painted while a query runs is forgotten when that ends.
        """
        for reader in node.readers:
            # What was in doubt before has its readers painted, or noted; but these may have to be urgent now.
            if reader.paint == CLEAN or urgent:
                above.append(reader)
            reader.paint = STALE
            if reader.observed:
                self._mark(self._roots[reader], urgent=urgent)

    def paint(self) -> Iterator[None]:
        """Paint what writes have put in doubt and have not painted yet, stopping now and then."""
        looks = 0
        while self.unpainted:
            looks += self._paint_readers(self.unpainted.pop(), self.unpainted)
            if looks > STRIDE:
                looks = 0
                yield

    def _finish_painting(self) -> None:
        for _ in self.paint():
            pass

    def _paint_urgently(self, above: list[Node]) -> None:
        """Paint the readers of some nodes, and what is above those as long as that is not much."""
        looks = 0
        while above and looks <= STRIDE:
            below, above = above, []
            looks += sum(self._paint_readers(node, above, urgent=True) for node in below)
        self.unpainted += above

    def _paint_readers(self, node: Node, above: list[Node], *, urgent: bool = False) -> int:
        """Paint the readers of a painted node SUSPECT, noting what put each in doubt; how many there are."""
        for reader in node.readers:
            if reader.suspects is None:
                reader.suspects = {node: None}
            else:
                reader.suspects[node] = None
            if was_clean := reader.paint == CLEAN:
                reader.paint = SUSPECT
                above.append(reader)
            if reader.observed and (was_clean or urgent):
                self._mark(self._roots[reader], urgent=urgent)
        return 1 + len(node.readers)

    def _mark(self, root: Root[Any], *, urgent: bool = False) -> None:
        if root in self._urgent:
            return
        if urgent and root.eager and root.valued:
            self._unmark(root)
            self._urgent[root] = None
        else:
            self._dirty.setdefault(root.rank, OrderedDict())[root] = None

    def _unmark(self, root: Root[Any]) -> None:
        self._urgent.pop(root, None)
        if (waiting := self._dirty.get(root.rank)) is not None:
            waiting.pop(root, None)

    def _cycle(self, node: Node) -> Cycle:
        """What to raise for a read that closes a circle.

        All on it fail, and alike: wherever the circle was entered, and also those who read by ``attempt``.
        """
        circle = self._running[self._running.index(node) :]
        first = min(range(len(circle)), key=lambda n: repr(circle[n]))
        circle = circle[first:] + circle[:first]
        cycle = Cycle("queries read each other in a circle: " + " -> ".join(map(repr, [*circle, circle[0]])))
        query, args = circle[0].key
        failed = _failure(query.name, args, cycle)
        for member in circle:
            other = self._circles.get(member, failed)
            self._circles[member] = min(failed, other, key=lambda f: f.error)
        return cycle

    # -- roots ------------------------------------------------------------

    def observe(self, query: Query[..., T], *args: Any, rank: int = 0, eager: bool = False) -> Root[T]:
        """Keep a query call alive and be told, through ``next_dirty``, when its value is in doubt.

        A new root counts as in doubt. Observing twice gives the same root, which one ``release`` ends.

        Args:
            query: what to observe.
            args: its arguments.
            rank: what matters more has a lower one.
            eager: whether ``next_urgent`` names it when an urgent write puts it in doubt. The first value is
                never urgent, nor one after ``None``.
        """
        node = self._node(query, args)
        root = self._roots.get(node)
        if root is None:
            root = self._roots[node] = Root(node, rank, eager=eager)
            node.observed = True
            # Also one that was computed long ago: this observer has not seen it.
            self._mark(root)
        return root

    def release(self, root: Root[Any]) -> None:
        """Stop observing; ``collect`` drops what only this root read."""
        node = root.node
        if self._roots.get(node) is not root:
            return
        node.observed = False
        del self._roots[node]
        self._unmark(root)
        if not node.readers:
            self._orphans[node] = None

    def tell_again(self, root: Root[Any]) -> None:
        """Have ``next_dirty`` name a root though it may be settled: its observer wants another look."""
        if self._roots.get(root.node) is root:
            self._mark(root)

    def next_urgent(self) -> Root[Any] | None:
        """The first of the eager roots that an urgent write has put in doubt."""
        return next(iter(self._urgent), None)

    def next_dirty(self) -> Root[Any] | None:
        """Of all others in doubt, the one that matters most; among equals, the first that came into it.

        Paints what has not been painted yet: call ``paint`` before to have that in slices.
        """
        self._finish_painting()
        waiting = [rank for rank, roots in self._dirty.items() if roots]
        return next(iter(self._dirty[min(waiting)])) if waiting else None

    def settle(self, root: Root[Any]) -> Iterator[None]:
        """Settle a root, stopping so that the caller can do something else: after each run at the latest."""
        urgent = root in self._urgent
        while root.node.paint != CLEAN or (self.unpainted and not urgent):
            if not urgent:
                yield from self.paint()
            yield from self._settle(root.node)
        self._unmark(root)
        root.urgent, root.valued = urgent, root.value is not None

    def collect(self, most: int | None = None) -> int:
        """Drop what nobody observes or reads any more, ``most`` nodes of it; how many that was."""
        dropped = 0
        while self._orphans and dropped != most:
            node, _ = self._orphans.popitem()
            if node.readers or node.observed:
                continue
            held: dict[Any, Node] = self._memos if _is_query_key(node.key) else self._cells
            if held.get(node.key) is not node or (held is self._cells and node.value is not None):
                continue
            del held[node.key]
            dropped += 1
            if node.value.__class__ is Failed:
                self._note_failure(node, None)
            for read in node.reads:
                read.readers.pop(node, None)
                if not read.readers and not read.observed:
                    self._orphans[read] = None
            node.reads = ()
            # Should a settle that stopped half-way come back to it, there is nothing left to do.
            node.paint = CLEAN
            node.suspects = None
        return dropped

    # -- answers about itself ----------------------------------------------

    def __len__(self) -> int:
        """Nodes held: cells and memoized calls."""
        return len(self._cells) + len(self._memos)

    def reads(self, query: Query[..., Any], *args: Any) -> tuple[str, ...]:
        """What a call read when it last ran, in that order, as text."""
        node = self._memos.get((query, args))
        return () if node is None else tuple(map(repr, node.reads))

    def graph(self) -> Mapping[str, tuple[str, ...]]:
        """Who read what: each memoized call with its reads, as text."""
        return {repr(node): tuple(map(repr, node.reads)) for node in self._memos.values()}


def _is_query_key(key: Any) -> bool:
    return key.__class__ is tuple and len(key) == 2 and key[0].__class__ is Query


def _failure(name: str, args: tuple[Any, ...], error: Exception) -> Failed:
    if isinstance(error, Cycle):
        # Its text holds keys alone. Where the circle was entered is chance, and where it was closed, too.
        text = trace = f"{type(error).__name__}: {error}"
    else:
        *_, raised = traceback.extract_tb(error.__traceback__)
        file = raised.filename.rpartition("/")[2]
        text = f"{type(error).__name__} in {raised.name} ({file}:{raised.lineno})"
        trace = "\n".join(_frames(error))
    digest = hashlib.blake2b(f"{name}{args!r}{text}".encode(), digest_size=4).hexdigest()
    return Failed(name, repr(args), digest, text, trace)


def _frames(error: BaseException) -> Iterator[str]:
    """The frames that an exception came through, after those of the exceptions that it was raised for."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        error = before or error
    for each in reversed(chain):
        yield type(each).__name__
        yield "".join(traceback.format_tb(each.__traceback__))

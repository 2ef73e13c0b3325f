"""The store: batches into cells, each touched cell written once; indexes that follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from moongate.api.base import ObjectMeta, Ref, Resource
from moongate.engine import Db, query
from moongate.store import Index, Store, find, get


class Book(Resource, frozen=True, kw_only=True):
    KIND: ClassVar[str] = "Book"

    authors: tuple[str, ...] = ()


def _by_author(book: Book) -> Iterator[tuple[str, Ref]]:
    for author in book.authors:
        yield author, book.ref


def _authors(book: Book) -> Iterator[tuple[str, str]]:
    for author in book.authors:
        yield "all", author


BOOKS = Index("books", (Book,), _by_author)
AUTHORS = Index("authors", (Book,), _authors)


def book(name: str, *authors: str) -> Book:
    return Book(metadata=ObjectMeta(name=name), authors=authors)


def ref(name: str) -> Ref:
    return Ref.of(Book, "", name)


@query
def titles(db: Db, author: str) -> tuple[str, ...]:
    return tuple(each.name for each in find(db, BOOKS, author))


def store(*books: Book) -> Store:
    made = Store(Db(), (BOOKS, AUTHORS))
    made.apply({each.ref: each for each in books})
    return made


class OtherBook(Book, frozen=True, kw_only=True):
    GROUP: ClassVar[str] = "other.example.com"


def test_kinds_of_one_name_in_two_groups_are_two_kinds() -> None:
    other = OtherBook(metadata=ObjectMeta(name="a"), authors=("y",))
    held = store(book("a", "x"), other)

    assert get(held.db, Book, ref("a")) == book("a", "x")
    assert get(held.db, OtherBook, Ref.of(OtherBook, "", "a")) == other
    assert find(held.db, BOOKS, "x") == (ref("a"),)
    assert find(held.db, BOOKS, "y") == ()


def test_a_resource_is_read_by_its_ref() -> None:
    held = store(book("a", "x"))

    assert get(held.db, Book, ref("a")) == book("a", "x")
    assert get(held.db, Book, ref("b")) is None


def test_an_index_finds_what_mentions_a_key_sorted() -> None:
    held = store(book("b", "x", "y"), book("a", "x"))

    assert find(held.db, BOOKS, "x") == (ref("a"), ref("b"))
    assert find(held.db, BOOKS, "z") == ()


def test_a_value_that_several_contribute_stays_until_the_last_goes() -> None:
    held = store(book("a", "x"), book("b", "x", "y"))

    held.apply({ref("a"): None})
    assert find(held.db, AUTHORS, "all") == ("x", "y")

    held.apply({ref("b"): None})
    assert find(held.db, AUTHORS, "all") == ()


def test_a_changed_resource_moves_between_buckets() -> None:
    held = store(book("a", "x"))

    held.apply({ref("a"): book("a", "y")})

    assert (find(held.db, BOOKS, "x"), find(held.db, BOOKS, "y")) == ((), (ref("a"),))


def test_only_resources_that_differ_from_those_in_force_are_changes() -> None:
    """A source may read a whole folder again: an equal resource, or a second deletion, changes nothing."""
    held = store(book("a", "x"))
    edited = book("a", "y")

    assert held.differing({ref("a"): book("a", "x"), ref("b"): None}) == {}
    assert held.differing({ref("a"): edited, ref("b"): None}) == {ref("a"): edited}
    assert held.differing({ref("a"): None}) == {ref("a"): None}


def test_a_batch_writes_a_bucket_once() -> None:
    """A folder of thousands of routes would otherwise rebuild one bucket thousands of times."""
    held = store()
    titles(held.db, "x")
    root = held.db.observe(titles, "x")
    for _ in held.db.settle(root):
        pass
    held.db.counts.clear()

    held.apply({each.ref: each for each in (book(f"b{n}", "x") for n in range(100))})
    steps = sum(1 for _ in held.db.settle(root))

    assert (steps, root.value) == (1, tuple(sorted(f"b{n}" for n in range(100))))


def test_editing_what_an_index_does_not_show_disturbs_no_bucket() -> None:
    held = store(book("a", "x"))
    titles(held.db, "x")
    held.db.counts.clear()

    held.apply({ref("a"): book("a", "x", "y")})

    assert titles(held.db, "x") == ("a",)
    assert held.db.counts == {}


def test_two_that_trade_places_leave_a_bucket_as_it_is() -> None:
    held = store(book("a", "x"), book("b", "y"))
    root = held.db.observe(titles, "x")
    for _ in held.db.settle(root):
        pass

    held.apply({ref("a"): book("a", "y"), ref("b"): book("b", "x")})
    held.apply({ref("a"): book("a", "x"), ref("b"): book("b", "y")})
    for _ in held.db.settle(root):
        pass

    assert root.value == ("a",)


def test_an_empty_store_holds_no_cell() -> None:
    held = store(book("a", "x"))

    held.apply({ref("a"): None})
    held.db.collect()

    assert (len(held.db), dict(held.resources())) == (0, {})


books = st.builds(book, st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from("xyz"))
edits = st.dictionaries(st.sampled_from("abc"), st.none() | books, max_size=3)


@given(st.lists(edits, max_size=8))
def test_indexes_are_what_the_resources_make_them(history: list[dict[str, Book | None]]) -> None:
    held, now = store(), dict[Ref, Book]()
    for edit in history:
        batch: dict[Ref, Resource | None] = {
            ref(name): None if edited is None else book(name, *edited.authors)
            for name, edited in edit.items()
        }
        held.apply(held.differing(batch))
        for at, edited in batch.items():
            now.pop(at, None)
            if isinstance(edited, Book):
                now[at] = edited

    for author in "xyz":
        expected = tuple(sorted(at for at, edited in now.items() if author in edited.authors))
        assert find(held.db, BOOKS, author) == expected
    assert find(held.db, AUTHORS, "all") == tuple(
        sorted({a for edited in now.values() for a in edited.authors})
    )
    assert held.resources() == now

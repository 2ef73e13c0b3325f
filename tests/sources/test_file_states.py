from __future__ import annotations

from moongate.sources.chunks import Chunk
from moongate.sources.file_states import File, difference
from moongate.sources.manifests import Document, read_document
from tests.sources.manifests import backend


def file(*documents: Document) -> File:
    return File("a.yaml", tuple(Chunk(each.text) for each in documents), documents)


def test_only_what_is_edited_differs() -> None:
    one, two, three, other = (read_document(backend(name), False, "default") for name in "abcd")

    assert difference(file(one, two, three), file(one, other, three)) == ([two], [other])


def test_documents_that_change_places_do_not_differ() -> None:
    one, two = (read_document(backend(name), False, "default") for name in "ab")

    assert difference(file(one, two), file(two, one)) == ([], [])
    assert difference(file(one, one), file(one)) == ([one], [])


def test_a_document_that_is_there_twice_has_two_positions() -> None:
    one, two = (read_document(backend(name), False, "default") for name in "ab")

    assert file(one, two, one).numbers == {one: [0, 2], two: [1]}


def test_a_file_is_broken_if_nobody_knows_what_it_defines() -> None:
    malformed, named = (read_document(text, False, "default") for text in ("a: [", backend("A")))

    assert (file(malformed).broken, file(named).broken) == (True, False)
    assert file(named).faulty == [0]

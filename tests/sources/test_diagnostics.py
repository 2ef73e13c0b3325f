"""A diagnostic of a manifest has its place in the file."""

from __future__ import annotations

from moongate.sources.chunks import Place
from moongate.sources.diagnostics import Diagnostic
from moongate.sources.folder import Folder
from tests.sources.manifests import backend, stream


def only(folder: Folder) -> Diagnostic:
    (diagnostic,) = folder.diagnostics()
    return diagnostic


def test_lines_count_in_the_file() -> None:
    folder = Folder()

    folder.update("f.yaml", stream("# first\n", backend("a"), backend("b", "many")))

    assert only(folder).place == Place("f.yaml", 21, 15)


def test_columns_count_in_the_file_where_json_values_share_a_line() -> None:
    folder = Folder()

    folder.update("f.json", '{"apiVersion": "v1", "kind": "List", "items": []} {"a": 1, "a": 2}')

    assert only(folder).place == Place("f.json", 1, 60)

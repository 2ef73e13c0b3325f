"""Every page of a feature, and every page of ``cases/``, is true; and the reader of pages reads well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moongate import translate
from moongate.infra.binary import envoy_binary
from moongate.infra.dry_run import refusals
from moongate.xds.wire import XdsResource, encode
from tests.cases import PAGES, Case, Expected, dump, read, rewrite, select, walk
from tests.conftest import Accept


@pytest.mark.parametrize("case", [case for page in PAGES for case in read(page)], ids=lambda case: case.id)
def test_page(case: Case, accept: Accept) -> None:
    """Every block of every page is what moongate really answers."""
    result = translate(case.documents(), config=None, namespace="default")

    for expected in case.expected:
        accept(expected, select(result, expected.what, expected.path))


@pytest.mark.envoy
@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_real_envoy_takes_what_pages_show(page: Path) -> None:
    binary = envoy_binary()
    for case in read(page):
        for fleet, types in translate(case.documents()).xds.items():
            resources = {
                url: {name: XdsResource.of(url, name, encode(message)) for name, message in named.items()}
                for url, named in types.items()
            }
            assert refusals(binary, fleet, resources) == (), case.title


PAGE = """# Page

```yaml
aside: this block is no case
```

## One

```yaml input
apiVersion: v1
kind: Service
metadata: {name: shop}
```

```yaml clusters [a.b].name
x
```

```yaml routes
{a: 1}
```

## No blocks

## Two

```yaml status
null
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_a_section_with_blocks_is_a_case(page: Path) -> None:
    assert [case.title for case in read(page)] == ["One", "Two"]


def test_an_input_replaces_the_object_of_the_prelude(page: Path) -> None:
    documents = next(read(page)).documents()

    assert [d for d in documents if d["kind"] == "Service"] == [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}}
    ]


def test_accepting_rewrites_only_the_blocks_that_are_given(page: Path) -> None:
    """Several of one page, each of another length than before, and nothing around them."""
    first, second = next(read(page)).expected

    rewrite([(first, ["long", "longer"]), (second, None)])

    accepted = PAGE.replace(
        "```yaml clusters [a.b].name\nx\n", "```yaml clusters [a.b].name\n[long, longer]\n"
    )
    assert page.read_text() == accepted.replace("{a: 1}\n", "null\n")


def test_a_word_that_is_nothing_to_look_at_is_reported(page: Path) -> None:
    page.write_text(PAGE.replace("yaml clusters", "yaml cluster"))

    with pytest.raises(AssertionError, match="there is no 'cluster'"):
        list(read(page))


@pytest.mark.parametrize(
    ("parts", "value"),
    [
        ([], {"a": [{"b.c": 1, "name": "x.y"}]}),
        (["a", "0", "b.c"], 1),
        (["a", "x.y", "b.c"], 1),
        (["a", "1"], None),
        (["a", "z"], None),
        (["x", "y"], None),
    ],
)
def test_a_path_leads_to_a_part_or_to_nothing(parts: list[str], value: Any) -> None:
    """An entry of a list is known by its index or by its name."""
    assert walk({"a": [{"b.c": 1, "name": "x.y"}]}, parts) == value


def test_an_empty_block_does_not_say_that_nothing_is_there() -> None:
    """It is to be filled; a path that leads nowhere then shows, as ``null``."""
    assert Expected(Path("page.md"), "routes", "", "", (0, 0)).value is not None


@pytest.mark.parametrize("value", [None, 1, "x", [], {"a": [1, {"b": None}]}])
def test_what_is_accepted_reads_back_as_it_was(value: Any) -> None:
    block = Expected(Path("page.md"), "routes", "", dump(value), (0, 0))

    assert block.value == value

"""What is known at the next start of what Envoy took before an edit that it refuses."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.infra.journal import Journal
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.quarantine import Refusal
from moongate.run.accepted_forms import AcceptedForms
from moongate.sources.file_states import LastGood
from tests import worlds
from tests.core import read

ROUTE = Ref.of(HTTPRoute, "default", "app")
POLICY = Ref.of(BackendTrafficPolicy, "default", "limits")
REFUSAL = Refusal(worlds.EG_FLEET, str(ROUTE), (ROUTE,), (), "no such command", (POLICY,))


def written(path: str) -> LastGood:
    """The route with a path."""
    text = (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: app}, "
        f"spec: {{rules: [{{matches: [{{path: {{value: {path}}}}}]}}]}}}}"
    )
    return LastGood("route.yaml", text, 1)


def route(path: str) -> HTTPRoute:
    [resource] = read(written(path).text)
    assert isinstance(resource, HTTPRoute)
    return resource


@contextmanager
def process(folder: Path) -> Generator[AcceptedForms]:
    """What one process knows."""
    with Journal[Ref, LastGood](folder, tuple[Ref, LastGood | None]) as journal:
        yield AcceptedForms(journal)


def known_after(folder: Path, path: str) -> dict[Ref, str]:
    """The paths of former routes that the next process knows, where the file has a path now; "" for none."""
    with process(folder) as next_one:
        next_one.edited({ROUTE: written(path)}, {})
        recalled = next_one.recall({ROUTE: route(path)}, "default")
        return {
            ref: former.spec.rules[0].matches[0].path.value if isinstance(former, HTTPRoute) else ""
            for ref, former in recalled.items()
        }


def test_what_was_before_a_refused_edit_is_known_as_long_as_the_edit_stands(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        first.edited({ROUTE: written("/a")}, {ROUTE: written("/b")})
        first.observe([REFUSAL])
        first.edited({ROUTE: written("/b")}, {ROUTE: written("/c")})
        first.observe([REFUSAL])

    assert known_after(tmp_path, "/c") == {ROUTE: "/a"}
    assert known_after(tmp_path, "/c") == {ROUTE: "/a"}, "also if it ends before Envoy refuses it again"
    assert known_after(tmp_path, "/a") == {}, "the edit was taken back"


def test_nothing_is_written_of_edits_that_envoy_takes(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        first.edited({ROUTE: written("/a")}, {ROUTE: written("/b")})
        first.observe([])

    assert known_after(tmp_path, "/b") == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mended", [True, False], ids=["by Envoy", "by an edit"])
def test_what_envoy_takes_in_the_end_is_not_held_against_it(tmp_path: Path, *, mended: bool) -> None:
    with process(tmp_path) as first:
        first.edited({ROUTE: written("/a")}, {ROUTE: written("/b")})
        first.observe([REFUSAL])
    with process(tmp_path) as second:
        if mended:
            second.observe([REFUSAL])
            second.observe([])
        else:
            second.edited({ROUTE: written("/b")}, {ROUTE: written("/d")})

    assert known_after(tmp_path, "/d") == {}


def test_a_search_that_begins_again_loses_nothing(tmp_path: Path) -> None:
    """While it does, nothing is refused for a moment."""
    with process(tmp_path) as first:
        first.edited({ROUTE: written("/a")}, {ROUTE: written("/b")})
        for refusals in ([REFUSAL], [], [REFUSAL]):
            first.observe(refusals)

    assert known_after(tmp_path, "/b") == {ROUTE: "/a"}


def test_of_a_resource_that_is_new_it_is_known_that_there_was_none(tmp_path: Path) -> None:
    """As of a policy that Envoy refuses: its route was served without it."""
    with process(tmp_path) as first:
        first.edited({POLICY: written("/a")}, {ROUTE: written("/b")})
        first.observe([REFUSAL])

    assert known_after(tmp_path, "/b") == {ROUTE: ""}


def test_a_first_start_has_nothing_before(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        first.edited({}, {ROUTE: written("/b")})
        first.observe([REFUSAL])

    assert known_after(tmp_path, "/b") == {}


def test_what_is_deleted_is_forgotten(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        first.edited({ROUTE: written("/a")}, {ROUTE: written("/b")})
        first.observe([REFUSAL])
        first.edited({ROUTE: written("/b")}, {ROUTE: None})

    assert known_after(tmp_path, "/b") == {}


def test_former_forms_are_recalled_once(tmp_path: Path) -> None:
    """When files are read anew while it runs, what Envoys have is known."""
    with process(tmp_path) as first:
        first.edited({ROUTE: written("/a")}, {ROUTE: written("/b")})
        first.observe([REFUSAL])

    with process(tmp_path) as second:
        assert second.recall({ROUTE: route("/b")}, "default")
        assert second.recall({ROUTE: route("/b")}, "default") == {}

"""Each field of the traffic policies has a test that sees its effect, or a reason why nothing can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import field_proofs
from tests.field_proofs import KINDS, Mark, faults, fields, marks, marks_in, proofs

if TYPE_CHECKING:
    from pathlib import Path

CTP = "ClientTrafficPolicy"


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_is_seen_to_work_or_there_is_a_reason(kind: str) -> None:
    assert list(faults(kind)) == []


def test_the_fields_of_a_policy_are_its_leaves() -> None:
    names = fields(CTP)

    assert {"mergeType", "targetRef.sectionName", "targetSelectors[].matchLabels"} <= {*names}
    assert {"http3", "headers.earlyRequestHeaders.add[].name", "path.disableMergeSlashes"} <= {*names}
    assert "headers.earlyRequestHeaders.remove" in names, "a list of strings has no fields"
    assert not {"headers", "headers.earlyRequestHeaders.add[]", "targetRefs"} & {*names}
    assert len({*names}) == len(names)


def test_marks_are_read_from_the_source(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "@pytest.mark.parametrize('n', [1])\n"
        f"@pytest.mark.proves('{CTP}', 'http3', 'path.*')\n"
        "async def test_a(): ...\n"
        "def test_b(): ...\n"
    )

    assert list(marks_in(path)) == [Mark(f"{path}::test_a", CTP, ("http3", "path.*"))]


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Marks and reasons other than those of the project: those of a test, and none."""
    monkeypatch.setattr(field_proofs, "marks", lambda: (Mark("t.py::test_a", CTP, ("scheme", "path.*")),))
    monkeypatch.setattr(field_proofs, "UNSEEN", {CTP: {}})
    return monkeypatch


def test_what_is_below_a_path_may_be_said_at_once(declared: pytest.MonkeyPatch) -> None:
    assert proofs(CTP) == {
        "scheme": ["t.py::test_a"],
        "path.escapedSlashesAction": ["t.py::test_a"],
        "path.disableMergeSlashes": ["t.py::test_a"],
    }


def test_what_is_missing_or_wrong_is_named(declared: pytest.MonkeyPatch) -> None:
    here = "tests/test_field_proofs.py"
    marked = (Mark("t.py::test_a", CTP, ("scheme", "path", "nothing.*")), Mark("t.py::test_b", "Ctp", ()))
    reasons = {
        "scheme": ("why", f"{here}::test_what_is_missing_or_wrong_is_named"),
        "absent": ("why", here),
        "http3": ("why", f"{here}::test_absent"),
        "tcpKeepalive.*": ("why", "tests/absent.py"),
    }
    declared.setattr(field_proofs, "marks", lambda: marked)
    declared.setattr(field_proofs, "UNSEEN", {CTP: reasons})

    found = [fault for fault in faults(CTP) if not fault.endswith("and no reason says why")]
    missing = [fault.partition(":")[0] for fault in faults(CTP) if fault not in found]

    assert found == [
        "scheme: t.py::test_a sees it, and yet a reason says that nothing can be seen",
        f"t.py::test_a: {CTP} has no field path",
        f"t.py::test_a: {CTP} has no field nothing.*",
        "t.py::test_b: there is no kind 'Ctp'",
        f"absent: {CTP} has no such field",
        f"http3: there is no {here}::test_absent",
        "tcpKeepalive.*: there is no tests/absent.py",
    ]
    assert {"path.disableMergeSlashes", "mergeType"} <= {*missing}
    assert not {"scheme", "http3", "tcpKeepalive.probes"} & {*missing}


def test_the_marks_of_the_project_are_there() -> None:
    """Were they looked for in the wrong place, nothing but fields without proof would be reported."""
    assert {mark.kind for mark in marks()} <= {*KINDS}
    assert any(mark.test.startswith("tests/e2e/test_http3.py::") for mark in marks())

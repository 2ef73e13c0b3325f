from __future__ import annotations

from moongate.api.shared import LabelSelector
from moongate.attach.namespaces import namespace_labels, selects
from tests.core import Core


def test_a_namespace_that_nobody_declared_has_its_name_as_a_label() -> None:
    core = Core()

    assert namespace_labels(core.db, "shop") == (("kubernetes.io/metadata.name", "shop"),)
    assert selects(core.db, LabelSelector(match_labels={"kubernetes.io/metadata.name": "shop"}), "shop")
    assert not selects(core.db, LabelSelector(match_labels={"team": "a"}), "shop")

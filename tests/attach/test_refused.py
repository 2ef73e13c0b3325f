"""What refers to a resource whose manifest has a fault says that, and not that there is no such resource."""

from __future__ import annotations

import pytest

from moongate.api.backend import Backend
from moongate.api.base import Ref
from moongate.api.core import ConfigMap, Secret, Service
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.attach.refused import absence, refused
from tests.core import Core


@pytest.mark.parametrize("kind", [Secret, ConfigMap, Service, Backend, HTTPRouteFilter])
def test_a_resource_that_is_refused_is_not_said_to_be_missing(kind: type[Secret]) -> None:
    core, ref = Core(), Ref.of(kind, "default", "x")

    assert absence(core.db, ref) == "does not exist"

    core.db.put(refused(ref), "a.yaml:3:5: spec: It is wrong")

    assert absence(core.db, ref) == (
        "is not in force, as its manifest has a fault (a.yaml:3:5: spec: It is wrong)"
    )

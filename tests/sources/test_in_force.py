"""What is in force, and the lookups of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from moongate.api.base import Ref
from moongate.api.core import Namespace
from moongate.api.gateway import Gateway, ReferenceGrant
from moongate.api.httproute import HTTPRoute
from moongate.policies.security_policy import SecurityPolicy
from moongate.sources import in_force as lookups
from moongate.sources.file_states import Held
from moongate.sources.folder import Folder
from moongate.sources.in_force import Edit, HeldResources, View
from tests.sources.manifests import Unfinished
from tests.sources.test_coverage import (
    ABOVE,
    OWN,
    USERS,
    basic,
    far,
    gateway,
    grant,
    guarding,
    labelled,
    matching,
    naming,
    selecting,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS = {
    Ref.of(HTTPRoute, "default", "r"): (
        matching("r", "- ANY /a/b", "- GET ~/.*"),
        matching("r", "- ANY =/a/b", host="*.b.test", labels="{turn: a, side: b}"),
        labelled("{turn: b}"),
    ),
    Ref.of(HTTPRoute, "default", "b"): (
        matching("b", "- ANY /a", host=""),
        matching("b", "- ANY /", gateway="h"),
    ),
    Ref.of(SecurityPolicy, "default", "p"): (
        OWN,
        naming("Gateway", "g", "a"),
        selecting("p", "{turn: a, side: b}"),
        guarding(
            "p", "targetSelectors: [{kind: HTTPRoute, matchExpressions: [{key: turn, operator: Exists}]}]"
        ),
    ),
    Ref.of(SecurityPolicy, "far", "p"): (far("{from: All}"), far("{from: Same}")),
    Ref.of(Gateway, "default", "g"): (gateway("g", a="*"), gateway("g", a="a.test", b="*")),
    Ref.of(ReferenceGrant, "default", "x"): (grant("far"),),
    Ref.of(Namespace, "", "default"): ("{apiVersion: v1, kind: Namespace, metadata: {name: default}}\n",),
}
KEYS = [
    *((lookups.REFERRING, ref) for ref in TEXTS),
    *((lookups.SELECTING, *anchor) for anchor in ((), ("turn",), ("turn", "a"), ("side", "b", "turn", "a"))),
    (lookups.FAR,),
    (lookups.GUARDING,),
    *((lookups.LABELLED, "HTTPRoute", *label) for label in ((), ("turn",), ("turn", "a"), ("turn", "b"))),
    *((name, Ref.of(Gateway, "default", at)) for name in (lookups.UNDER, lookups.PATTERNS) for at in "gh"),
    *((lookups.NARROWER, Ref.of(Gateway, "default", "g"), host) for host in ("", "*.test", "a.test")),
    *((lookups.AT, Ref.of(Gateway, "default", "g"), "a.test", "PathPrefix", path) for path in ("/", "/a/b")),
    *((lookups.BENEATH, Ref.of(Gateway, "default", "g"), "a.test", path) for path in ("/", "/a", "/a/b")),
    (lookups.LISTENING, 80),
    (lookups.GRANTING, "default"),
]


def state_of(ref: Ref, text: str) -> Held:
    folder = Folder()
    folder.update("a.yaml", text)
    return Held(folder.resources[ref], "a.yaml", text)


STATES = {ref: tuple(state_of(ref, text) for text in texts) for ref, texts in TEXTS.items()}
EDITS = st.lists(
    st.sampled_from([(ref, state) for ref, states in STATES.items() for state in (*states, None)]),
    max_size=12,
)


@given(EDITS, EDITS, st.integers(0, 12))
def test_lookups_are_as_of_the_resources_that_are_in_force(
    history: Sequence[tuple[Ref, Held | None]], edit: Sequence[tuple[Ref, Held | None]], expecting: int
) -> None:
    """After any history; and a view shows what they will be after an edit, without the edit."""
    in_force = HeldResources()
    for at, (ref, state) in enumerate(history):
        if at == expecting:
            for _ in in_force.expect_policies():
                pass
        if state is not None:
            in_force[ref] = state
        else:
            in_force.pop(ref, None)
    view = view_after(in_force, dict(edit))
    seen = [set(view.look_up(*key)) for key in KEYS], {ref: view.get(ref) for ref in TEXTS}

    if in_force.has_policies:
        assert looked_up(in_force) == looked_up(afresh(in_force))
    after = {ref: s for ref, s in ({**in_force} | dict(edit)).items() if s is not None}
    if in_force.has_policies and any(isinstance(s.resource, SecurityPolicy) for s in after.values()):
        assert seen[0] == looked_up(afresh(after))[0]
        assert {*view.shapes} >= {*afresh(after).shapes}
    assert seen[1] == {ref: after[ref].resource if ref in after else None for ref in TEXTS}


def view_after(in_force: HeldResources, edit: Edit) -> View:
    steps = View.after(in_force, edit)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def afresh(states: HeldResources | dict[Ref, Held]) -> HeldResources:
    made = HeldResources()
    for ref, state in states.items():
        made[ref] = state
    return made


def looked_up(in_force: HeldResources) -> tuple[list[set[Ref]], set[tuple[str, ...]]]:
    return [{*in_force.look_up(*key)} for key in KEYS], {*in_force.shapes}


def test_an_edit_costs_what_it_concerns_however_many_routes_are_guarded() -> None:
    """A new route, other labels, another path, another policy, a removal: each looks at a few resources."""
    costs = [edit_costs(count) for count in (3, 60)]

    assert costs[0] == costs[1]
    assert max(costs[0].values()) < 20


def test_a_policy_in_its_last_good_state_makes_an_edit_cost_twice_as_much() -> None:
    """Besides whether the change is half of an edit, it is asked once what it takes from such a policy."""
    sound, faulty = edit_costs(3), edit_costs(3, fault="sepc")

    assert all(faulty[name] <= 2 * cost for name, cost in sound.items())
    assert faulty["path"] > sound["path"]


def edit_costs(count: int, fault: str = "spec") -> dict[str, int]:
    folder = Folder(strict=True)
    files = {"g.yaml": gateway("g", http="*"), "u.yaml": USERS, "p.yaml": basic("p", ABOVE)}
    for n in range(count):
        host, labels = f"h{n}.test", f"{{app: a{n}}}"
        files[f"r{n}.yaml"] = matching(f"r{n}", "- ANY /", host=host, labels=labels)
        files[f"p{n}.yaml"] = selecting(f"p{n}", labels)
        files[f"s{n}.yaml"] = matching(f"s{n}", f"- ANY /{n}", host="all.test")
        files[f"q{n}.yaml"] = naming("HTTPRoute", f"s{n}").replace("name: p}", f"name: q{n}}}")
    folder.update_many(files)
    folder.update_many({"p1.yaml": files["p1.yaml"].replace("spec", fault)})

    def cost(path: str, text: str | None) -> int:
        before = folder.visited
        for _ in folder.stage(path, text):
            pass
        folder.commit(Unfinished())
        return folder.visited - before

    return {
        "new host": cost("n.yaml", matching("n", "- ANY /", host="n.test")),
        "new path": cost("m.yaml", matching("m", "- ANY /m", host="all.test")),
        "labels": cost("r1.yaml", matching("r1", "- ANY /", host="h1.test", labels="{app: a1, new: b}")),
        "path": cost("s1.yaml", matching("s1", "- ANY /1/b", host="all.test")),
        "targets": cost("p2.yaml", selecting("p2", "{app: a2, new: b}")),
        "removal": cost("r0.yaml", None),
    }

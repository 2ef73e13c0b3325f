"""The walks over a document: its defaults, the faults of its types, and its rules."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, ClassVar

import pytest
from msgspec import Meta, Struct

from moongate.api.admission import checked
from moongate.api.base import SET, Model, ObjectMeta, Resource, Rule
from moongate.api.httproute import HTTPPathMatch, HTTPRouteMatch
from moongate.api.plans import plan
from tests.api.manifests import admitted, gateway, manifest, problems, route

ENVOY = "gateway.envoyproxy.io/v1alpha1"


def test_a_route_gets_the_defaults_of_its_crd() -> None:
    resource = admitted(manifest("HTTPRoute", spec={"parentRefs": [{"name": "eg"}]}))

    assert resource.spec.parent_refs[0].kind == "Gateway"
    assert resource.spec.rules[0].matches == (
        HTTPRouteMatch(path=HTTPPathMatch(type="PathPrefix", value="/")),
    )


def test_a_default_within_an_object_applies_when_the_object_is_there() -> None:
    resource = admitted(route(matches=[{"path": {"value": "/a"}}], backendRefs=[{"name": "a", "port": 80}]))

    assert resource.spec.rules[0].matches[0].path == HTTPPathMatch(type="PathPrefix", value="/a")
    assert resource.spec.rules[0].backend_refs[0].weight == 1


def test_rules_see_defaults_and_not_what_is_absent() -> None:
    """A redirect of a prefix needs one PathPrefix match: the default is one."""
    replaced = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}

    admitted(route(filters=[{"type": "RequestRedirect", "requestRedirect": replaced}]))


def test_a_null_is_as_if_it_were_not_there() -> None:
    resource = admitted(
        route(name=None, matches=None, backendRefs=[{"name": "a", "port": 80, "weight": None}])
    )

    assert resource.spec.rules[0].backend_refs[0].weight == 1
    assert resource.spec.rules[0].matches == (HTTPRouteMatch(),)


def test_a_null_at_a_field_that_does_not_exist_is_reported() -> None:
    """`{scheme:https}`, without a blank after the colon, is such a field in YAML."""
    faults = problems(
        route(filters=[{"type": "RequestRedirect", "requestRedirect": {"scheme:https": None, "port": 1}}])
    )

    assert faults == {
        "spec.rules[0].filters[0].requestRedirect.scheme:https": "There is no field 'scheme:https' here. "
        "Did you mean 'scheme'?"
    }


def test_a_misspelt_field_that_is_required_is_one_fault() -> None:
    """A second message about the field that is missing would only repeat the question of the first."""
    faults = problems(route(backendRefs=[{"naame": "a"}, {"weight": 1}]))

    refs = "spec.rules[0].backendRefs"
    assert faults == {
        f"{refs}[0].naame": "There is no field 'naame' here. Did you mean 'name'?",
        f"{refs}[1].name": "name is missing; it is required.",
    }


def test_every_fault_of_the_schema_is_reported_at_once() -> None:
    faults = problems(
        route(
            matchs=[],
            matches=[{"path": {"type": "Prefix", "value": 1}, "method": "get"}],
            backendRefs=[{"name": "a", "port": "80"}, {"port": 70000}, 3],
            timeouts={"request": "1 hour"},
        )
    )

    rule = "spec.rules[0]"
    assert faults == {
        f"{rule}.matchs": "There is no field 'matchs' here. Did you mean 'matches'?",
        f"{rule}.matches[0].path.type": (
            "The value is 'Prefix'; it must be one of Exact, PathPrefix, RegularExpression. "
            "Did you mean 'PathPrefix'?"
        ),
        f"{rule}.matches[0].path.value": "The value is 1; it must be a string: write it in quotes.",
        f"{rule}.matches[0].method": (
            "The value is 'get'; it must be one of "
            "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE. "
            "Did you mean 'GET'?"
        ),
        f"{rule}.backendRefs[0].port": "The value is '80'; it must be a whole number, without quotes.",
        f"{rule}.backendRefs[1].name": "name is missing; it is required.",
        f"{rule}.backendRefs[1].port": "70000 is out of range; it must be between 1 and 65535.",
        f"{rule}.backendRefs[2]": "The value is 3; it must be an object with name.",
        f"{rule}.timeouts.request": (
            "The value is '1 hour'; it must be a duration with at most 5 digits before each unit, "
            "such as '600s', '1h30m' or '48h'."
        ),
    }


def test_a_field_one_level_too_high_is_reported_where_it_belongs() -> None:
    """Blanks are easily lost."""
    document = manifest("HTTPRoute", spec={"parentRefs": [{"name": "eg"}]}, rules=[], replicas=1)

    assert problems(document) == {
        "rules": "There is no field 'rules' here. It is a field of spec: put it there, further to the right.",
        "replicas": "There is no field 'replicas' here.",
    }


@pytest.mark.parametrize(
    ("document", "path", "right"),
    [
        (
            route(matches=[{"timeouts": {"request": "1s"}}]),
            "spec.rules[0].matches[0].timeouts",
            "'timeouts' belongs beside 'matches': put it there, further to the left.",
        ),
        (
            route(filters=[{"type": "CORS", "cors": {"backendRefs": []}}]),
            "spec.rules[0].filters[0].cors.backendRefs",
            "'backendRefs' belongs beside 'filters': put it there, further to the left.",
        ),
        (
            manifest("Gateway", spec={"gatewayClassName": "g", "listeners": []}, metadata={"spec": {}}),
            "metadata.spec",
            "'spec' belongs beside 'metadata': put it there, further to the left.",
        ),
        (
            manifest("HTTPRoute", spec={"filters": []}),
            "spec.filters",
            "It is a field of each entry of rules: put it there, further to the right.",
        ),
    ],
)
def test_a_field_too_far_to_the_right_or_left_is_reported_where_it_belongs(
    document: dict[str, Any], path: str, right: str
) -> None:
    """An indentation by some blanks too many or too few is the most frequent slip in YAML."""
    field = path.rpartition(".")[2]

    assert problems(document)[path] == f"There is no field {field!r} here. {right}"


def test_a_field_of_the_object_beside_is_reported_there() -> None:
    spec = {"endpoints": [{"ip": {"hostname": "shop.test", "port": 1}}]}

    faults = problems(manifest("Backend", ENVOY, spec=spec))

    assert faults["spec.endpoints[0].ip.hostname"] == (
        "There is no field 'hostname' here. It is a field of fqdn, which stands beside ip."
    )


def test_fields_that_were_moved_together_belong_to_one_object() -> None:
    """A port is a field of ip and of fqdn, and an address of ip alone."""
    spec = {"endpoints": [{"port": 1, "address": "127.0.0.1"}]}

    faults = problems(manifest("Backend", ENVOY, spec=spec))

    right = "It is a field of ip: put it there, further to the right."
    assert faults["spec.endpoints[0].port"] == f"There is no field 'port' here. {right}"
    assert faults["spec.endpoints[0].address"] == f"There is no field 'address' here. {right}"


def test_a_list_without_dashes_is_reported_with_them() -> None:
    faults = problems(route(matches={"path": {"value": "/"}}))

    assert faults == {
        "spec.rules[0].matches": "The value is an object; it must be a list, whose entries begin with '- '."
    }


def test_every_broken_rule_is_reported_at_once() -> None:
    faults = problems(
        route(
            matches=[{"path": {"value": "x"}}],
            filters=[{"type": "CORS"}, {"type": "URLRewrite", "urlRewrite": {}, "cors": {}}],
            backendRefs=[{"name": "a"}],
            timeouts={"request": "1s", "backendRequest": "1500ms"},
        )
    )

    rule = "spec.rules[0]"
    assert faults.keys() == {
        f"{rule}.matches[0].path",
        f"{rule}.filters[0]",
        f"{rule}.filters[1]",
        f"{rule}.backendRefs[0]",
        f"{rule}.timeouts",
    }


def test_a_rule_about_each_entry_of_a_list_is_reported_at_the_entries_that_break_it() -> None:
    """With what they have in the fields that the rule names, also below them."""
    tls = {"name": "tls", "port": 1, "protocol": "TLS"}
    https = {"name": "https", "port": 2, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}}
    sound = {"name": "http", "port": 3, "protocol": "HTTP"}

    assert problems(gateway(sound, tls, https)) == {
        "spec.listeners[1]": "A listener of protocol TLS needs tls with a mode. Here protocol is 'TLS'.",
        "spec.listeners[2]": (
            "tls.mode of an HTTPS listener must be Terminate. Here protocol is 'HTTPS' and tls.mode is "
            "'Passthrough'."
        ),
    }


def test_a_rule_that_entries_break_together_is_reported_at_the_list() -> None:
    twins = ({"name": name, "port": 1, "protocol": "HTTP"} for name in ("one", "two"))

    assert problems(gateway(*twins)).keys() == {"spec.listeners"}


def test_a_rule_that_asks_for_an_entry_is_reported_at_the_list() -> None:
    """No entry is at fault where one is missing."""

    class Listed(Model, frozen=True, kw_only=True):
        FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
            "names": (Rule("self.exists(name, name == 'a')", "One must be a."),)
        }

        names: tuple[str, ...] = ()

    _, faults = checked(Listed, {"names": ["b", "c"]})

    assert [fault.path for fault in faults] == ["names"]


def test_rules_of_entries_and_of_base_classes_hold_too() -> None:
    class Base(Model, frozen=True, kw_only=True):
        RULES: ClassVar[tuple[Rule, ...]] = (Rule("self.low <= self.high", "low is above high."),)

        low: int = 0
        high: int = 9

    class Derived(Base, frozen=True, kw_only=True):
        FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
            "words[]": (Rule("self.lowerAscii() != 'host'", "Not that one."),)
        }

        words: Annotated[tuple[str, ...], SET] = ()

    _, faults = checked(Derived, {"low": 10, "words": ["a", "HOST", "a"]})

    assert [(problem.path, problem.message) for problem in faults] == [
        ("", "low is above high. Here high is 9 and low is 10."),
        ("words[1]", "Not that one. The value is 'HOST'."),
        ("words[2]", "The entry repeats 'a' of [0]; each may stand once."),
    ]


def test_entries_of_a_list_that_is_a_map_have_different_keys() -> None:
    headers = [{"name": "a", "value": value} for value in ("1", "2")]

    assert problems(route(matches=[{"headers": headers}])) == {
        "spec.rules[0].matches[0].headers[1]": "The entry repeats name 'a' of [0]; each may stand once."
    }


def test_a_newline_at_the_end_does_not_slip_through_a_pattern() -> None:
    """``$`` of Python would let it pass; in a header, Envoy would then refuse the whole configuration."""
    faults = problems(route(matches=[{"headers": [{"name": "a", "value": "b\n"}]}]))

    assert faults.keys() == {"spec.rules[0].matches[0].headers[0].value"}


def test_rules_look_at_fields_that_are_not_built() -> None:
    both: dict[str, Any] = {"mergeGateways": True, "mergeBackends": {}}

    assert problems(manifest("EnvoyProxy", "gateway.envoyproxy.io/v1alpha1", spec=both)) == {
        "spec": "mergeGateways and mergeBackends exclude each other."
    }


def test_to_plan_a_struct_compiles_none_of_its_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start plans hundreds of fields, and only a value with a fault needs what the plan has of them."""

    class Named(Model, frozen=True):
        name: Annotated[str, Meta(pattern="^only-of-this-test$")]

    with monkeypatch.context() as patched:
        patched.delattr(re, "compile")
        planned = plan(Named)

    assert planned.judged({"name": "only-of-this-test"}) == []
    assert planned.judged({"name": "only-of-this-test\n"}) != []


@pytest.mark.parametrize("base", [Model, Resource, ObjectMeta])
def test_the_annotations_of_what_each_model_has_need_no_evaluation(base: type[Struct]) -> None:
    """msgspec evaluates them once for each Struct below, of which there are hundreds."""
    assert not any(isinstance(annotation, str) for annotation in inspect.get_annotations(base).values())

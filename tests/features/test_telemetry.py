"""What is reported of the requests of a route."""

from __future__ import annotations

import pytest

from moongate.features.telemetry import FEATURE
from tests.features.backends import effective, faults, on_route


def test_what_a_policy_does_not_say_of_spans_is_envoys_default() -> None:
    spec = {
        "tracing": {"overallSamplingFraction": {"numerator": 5}, "spanName": {"client": "c", "server": "s"}}
    }

    assert on_route(FEATURE, spec)["tracing"] == {
        "client_sampling": {},
        "overall_sampling": {"numerator": 5},
        "operation": "c",
        "upstream_operation": "s",
    }


def test_tags_that_envoy_would_refuse_are_left_out_and_hinted_at() -> None:
    assert FEATURE.hints is not None
    spec = {"tracing": {"tags": {"a": "b", "": "c"}, "customTags": {"d": {"type": "Literal"}}}}

    assert on_route(FEATURE, spec)["tracing"]["custom_tags"] == [{"tag": "a", "value": "b"}]
    paths = [hint.path for hint in FEATURE.hints(effective(FEATURE, spec).value)]
    assert paths == ["tracing.customTags['d']", "tracing.tags['']"]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("%ROUTE_NAME%-%ROUTE_RULE_NAME%", []),
        ("plain", []),
        ("%ROUTE_RULE_NUMBER%", ["metrics.routeStatName"]),
    ],
)
def test_the_name_of_statistics_has_known_operators_alone(name: str, paths: list[str]) -> None:
    assert faults(FEATURE, {"metrics": {"routeStatName": name}}) == paths


def test_a_percent_sign_that_begins_no_command_stands_for_itself() -> None:
    """Envoy refuses it, and with it the route."""
    spec = {"tracing": {"tags": {"a": "100%"}, "spanName": {"client": "5%", "server": "%REQ(x)%"}}}

    tracing = on_route(FEATURE, spec)["tracing"]
    assert tracing["custom_tags"] == [{"tag": "a", "value": "100%%"}]
    assert (tracing["operation"], tracing["upstream_operation"]) == ("5%%", "%REQ(x)%")


def test_spans_go_without_what_has_a_command_that_does_not_end() -> None:
    assert FEATURE.hints is not None
    spec = {"tracing": {"tags": {"a": "%REQ(x"}, "spanName": {"client": "c", "server": "%REQ(x"}}}

    assert on_route(FEATURE, spec)["tracing"] == {"client_sampling": {}, "operation": "c"}
    paths = [hint.path for hint in FEATURE.hints(effective(FEATURE, spec).value)]
    assert paths == ["tracing.spanName.server", "tracing.tags['a']"]

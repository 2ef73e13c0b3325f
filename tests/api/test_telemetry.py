"""Telemetry of an EnvoyProxy, as such."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.admission import admit
from moongate.api.shared import BackendRef
from moongate.api.telemetry import (
    MetricSink,
    OpenTelemetryMetricSink,
    ProxyMetrics,
    ProxyTelemetry,
    TelemetryHeader,
    in_namespace,
)
from moongate.kinds import KINDS
from tests.api.manifests import manifest


def test_references_get_the_namespace_they_were_written_in() -> None:
    """After a merge it could not be known any more."""

    def reporting_to(*refs: BackendRef) -> ProxyTelemetry:
        sink = MetricSink(open_telemetry=OpenTelemetryMetricSink(backend_refs=refs))
        return ProxyTelemetry(metrics=ProxyMetrics(sinks=(sink,)))

    written = reporting_to(BackendRef(name="a", port=1), BackendRef(name="b", port=1, namespace="other"))

    assert in_namespace(written, "mine") == reporting_to(
        BackendRef(name="a", port=1, namespace="mine"), BackendRef(name="b", port=1, namespace="other")
    )


def test_what_names_no_backend_stays_the_same_object() -> None:
    telemetry = ProxyTelemetry(metrics=ProxyMetrics(cluster_stat_name="x"))

    assert in_namespace(telemetry, "mine") is telemetry


def test_the_value_of_a_header_is_not_shown() -> None:
    """It may be a credential."""
    assert "s3cret" not in repr(TelemetryHeader(name="authorization", value="s3cret"))


@pytest.mark.parametrize(
    "headers",
    [
        [{"name": "x", "value": 531_351}],
        [{"name": "x", "value": "s3cret" * 1000}],
        [{"name": "x", "value": ["s3cret"]}],
        ["s3cret"],
        "s3cret",
    ],
)
def test_a_fault_of_a_header_does_not_quote_it(headers: Any) -> None:
    traced = {"provider": {"type": "OpenTelemetry", "host": "a", "openTelemetry": {"headers": headers}}}
    spec = {"telemetry": {"tracing": traced}}
    problems = admit(
        manifest("EnvoyProxy", "gateway.envoyproxy.io/v1alpha1", spec=spec), KINDS, namespace="default"
    ).problems

    assert problems
    assert not any("s3cret" in problem.message or "531351" in problem.message for problem in problems)

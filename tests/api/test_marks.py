"""Fields that have no effect yet, and those that are deprecated."""

from __future__ import annotations

from moongate.api.admission import admit_configuration
from moongate.api.marks import unbuilt
from tests.api.manifests import admitted, manifest


def test_a_field_that_is_not_built_is_admitted_and_reported() -> None:
    proxy = admitted(
        manifest(
            "EnvoyProxy",
            "gateway.envoyproxy.io/v1alpha1",
            spec={
                "geoIP": {"value": "x", "anything": None},
                "provider": {"type": "Host", "host": {"envoyVersion": "1.40"}},
            },
        )
    )

    assert proxy.spec.geo_ip == {"value": "x", "anything": None}
    assert [problem.path for problem in unbuilt(proxy)] == [
        "spec.geoIP",
        "spec.provider.host.envoyVersion",
    ]


def test_a_field_that_is_not_built_is_reported_below_one_that_is() -> None:
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    limit = {"backend": {"type": "Redis", "redis": {"url": "redis:6379"}}}

    read, _ = admit_configuration(head | {"rateLimit": limit | {"telemetry": {"tracing": {}}}})

    assert read is not None
    assert [problem.path for problem in unbuilt(read)] == ["rateLimit.telemetry"]

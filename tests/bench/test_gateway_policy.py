"""The benchmark of policies on a Gateway: how it judges what it measured."""

from __future__ import annotations

from bench.gateway_policy import Series, Size, verdicts


def test_it_tells_whose_a_late_endpoint_is() -> None:
    series = Series(
        kind="in each route",
        served_ms=[1.0],
        settled_ms=[1.0],
        cpus_ms=[1.0],
        envoy_cpus_ms=[1.0],
        slices=[1],
        longest_ms=[1.0],
        longest="pump",
        runs=1.0,
        functions={},
        bytes=1.0,
        endpoints_ms=[20.0, 30.0, 190.0],
        sent_ms=[10.0, 12.0, 14.0],
        requests=1,
        failed=0,
        failures=[],
        long_callbacks={},
    )

    rows = verdicts([Size(routes=5000, at_rest_ms=[8.0], edits=[series])]).splitlines()

    (meanwhile,) = (row for row in rows if "meanwhile, of 3" in row)
    (sent,) = (row for row in rows if "handed to the stream" in row)
    assert "30.0 / 190.0 ms, 1 above 50 ms" in meanwhile
    assert "12.0 / 14.0 ms, 0 above 50 ms" in sent

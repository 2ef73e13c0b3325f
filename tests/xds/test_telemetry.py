"""What is wrong with telemetry."""

from __future__ import annotations

from moongate.xds.telemetry import telemetry_problems
from tests.core import EG_FLEET
from tests.xds.test_sinks import of_gateway


def test_all_faults_are_told_at_once() -> None:
    to_nowhere = "{type: ALS, als: {type: TCP, backendRefs: [{name: gone, port: 1}]}}"
    core = of_gateway(
        f"""
        {{accessLog: {{settings: [{{sinks: [{to_nowhere}]}}, {{matches: [')++'], sinks: [{to_nowhere}]}}]}},
         tracing: {{provider: {{type: Zipkin, host: ''}}, customTags: {{a: {{type: Literal}}}}}}}}
        """
    )

    assert [problem.path for problem in telemetry_problems(core.db, EG_FLEET)] == [
        "spec.telemetry.accessLog.settings[1].matches[0]",
        "spec.telemetry.tracing.customTags['a']",
        "spec.telemetry.accessLog.settings[0].sinks[0].als.backendRefs[0]",
        "spec.telemetry.tracing.provider.host",
    ]

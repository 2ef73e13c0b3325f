"""What is wrong with the telemetry of a fleet, for the statuses of its Gateways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.attach.gateways import fleet_proxy
from moongate.engine import query
from moongate.xds.access_logs import condition_problems
from moongate.xds.sinks import sink_problems, sinks
from moongate.xds.tracing import tracing_problems

if TYPE_CHECKING:
    from moongate.api.base import FleetId
    from moongate.engine import Db
    from moongate.problem import Problem


@query
def telemetry_problems(db: Db, fleet: FleetId) -> tuple[Problem, ...]:
    """Why a fleet does not report all that its EnvoyProxy asks for; with paths in that EnvoyProxy."""
    if fleet_proxy(db, fleet).spec.telemetry is None:
        return ()
    problems = [*condition_problems(db, fleet), *tracing_problems(db, fleet)]
    problems += [problem for each in sinks(db, fleet) for problem in sink_problems(db, fleet, each.name)]
    return tuple(problems)

"""Limit what a backend is given at a time, and fail the rest at once instead of queueing it.

Set by:      BackendTrafficPolicy ``spec.circuitBreaker``
Precedence:  the most specific policy wins
Envoy:       ``Cluster.circuit_breakers``, config/cluster/v3/circuit_breaker.proto; per cluster, per Envoy
Cases:       circuit_breaker.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3.circuit_breaker_pb2 import CircuitBreakers
from google.protobuf.wrappers_pb2 import UInt32Value

from moongate.api.cluster_settings import CircuitBreaker, RetryBudget
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

_ENVOY_MIN_RETRY_CONCURRENCY = 3
_MAX_CONNECTIONS_PER_ENDPOINT = 1024


def check(_db: Db, breaker: Effective[CircuitBreaker]) -> Iterator[Problem]:
    budget = breaker.value.retry_budget
    if budget is not None and budget.min_retry_concurrency is not None and budget.min_retry_concurrency < 0:
        yield Problem(
            "retryBudget.minRetryConcurrency",
            f"minRetryConcurrency is {budget.min_retry_concurrency}; it must not be negative.",
        )


def hints(breaker: CircuitBreaker) -> Iterator[Problem]:
    """Limits of zero."""
    closed = "so no request ever goes on. Requests are answered with 503."
    if breaker.max_pending_requests == 0:
        message = f"No request may wait for a connection, not even the first, {closed}"
        yield Problem("maxPendingRequests", message, "Closed")
    if breaker.max_parallel_requests == 0:
        yield Problem("maxParallelRequests", f"No request may be under way, {closed}", "Closed")
    if breaker.max_parallel_retries == 0:
        message = "No retry may be under way, so no request is ever tried again."
        yield Problem("maxParallelRetries", message, "Unused")
    per_endpoint = breaker.per_endpoint
    served = "Envoy opens one connection to an endpoint even if the limit is 0. Requests are served"
    if breaker.max_connections == 0:
        message = f"{served}; connections of TCPRoutes and TLSRoutes are closed."
        yield Problem("maxConnections", message, "Unused")
    if per_endpoint is not None and per_endpoint.max_connections == 0:
        yield Problem("perEndpoint.maxConnections", f"{served}.", "Unused")


def cluster(edit: ClusterEdit, breaker: Effective[CircuitBreaker]) -> None:
    spec = breaker.value
    breakers = edit.message.circuit_breakers
    # The first thresholds are those of the default priority, which all requests have.
    limits = breakers.thresholds[0] if breakers.thresholds else breakers.thresholds.add()
    if spec.max_connections is not None:
        limits.max_connections.value = spec.max_connections
    if spec.max_pending_requests is not None:
        limits.max_pending_requests.value = spec.max_pending_requests
    if spec.max_parallel_requests is not None:
        limits.max_requests.value = spec.max_parallel_requests
    if spec.max_parallel_retries is not None:
        limits.max_retries.value = spec.max_parallel_retries
    if spec.retry_budget is not None:
        _budget(limits, spec.retry_budget)
    if spec.per_endpoint is not None:
        most = spec.per_endpoint.max_connections
        breakers.per_host_thresholds.append(
            CircuitBreakers.Thresholds(
                max_connections=UInt32Value(value=_MAX_CONNECTIONS_PER_ENDPOINT if most is None else most)
            )
        )
    if spec.max_requests_per_connection is not None:
        edit.http.common_http_protocol_options.max_requests_per_connection.value = (
            spec.max_requests_per_connection
        )


def _budget(limits: CircuitBreakers.Thresholds, budget: RetryBudget) -> None:
    share = budget.percent
    limits.retry_budget.budget_percent.value = share.numerator / share.denominator * 100
    least = budget.min_retry_concurrency
    if least is not None and least != _ENVOY_MIN_RETRY_CONCURRENCY:
        limits.retry_budget.min_retry_concurrency.value = least


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="circuit_breaker",
    model=CircuitBreaker,
    check=check,
    hints=hints,
    transports=("TCP",),
    cluster=cluster,
)

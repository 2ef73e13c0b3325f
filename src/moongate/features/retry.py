"""Retry a failed request on another endpoint.

Set by:      BackendTrafficPolicy ``spec.retry``; HTTPRoute ``rules[].retry``
Precedence:  the HTTPRoute's own retry replaces all settings of the policy's
Envoy:       ``RouteAction.retry_policy``, config/route/v3/route_components.proto
Cases:       retry.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.route.v3.route_components_pb2 import RetryPolicy
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)
from google.protobuf.wrappers_pb2 import UInt32Value

from moongate.api.base import DurationStr, milliseconds
from moongate.api.cluster_settings import BackOffPolicy, PerRetryPolicy, Retry, RetryOn
from moongate.api.httproute import HTTPRouteRule
from moongate.features.base import Effective, Feature, Native, RouteEdit
from moongate.features.shared import duration
from moongate.problem import Problem
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.cluster_settings import Trigger
    from moongate.api.route import RouteRule
    from moongate.engine import Db

_STATUSES: Final[Trigger] = "retriable-status-codes"

_STANDARD: Final[tuple[Trigger, ...]] = (
    "connect-failure",
    "refused-stream",
    "unavailable",
    "cancelled",
    _STATUSES,
)
"""Failures of requests that no backend processed."""

_STANDARD_CODES: Final = (503,)

_NATIVE: Final[tuple[Trigger, ...]] = (*_STANDARD, "reset")
"""What an HTTPRoute's own ``retry`` covers. ``reset`` also means a connection that is closed before the
response, and a try that takes longer than its timeout."""

_ENVOY_BASE_INTERVAL: DurationStr = "25ms"


def native(rule: RouteRule) -> Retry | None:
    """What the HTTPRoute's own ``retry`` says, with ``timeouts.backendRequest`` as the time of each try.

    Disconnects, resets and timeouts are retried whatever ``codes`` says.

    Source: Gateway API, ``HTTPRouteRetry``.
    """
    if not isinstance(rule, HTTPRouteRule) or (own := rule.retry) is None:
        return None
    # Envoy refuses a base of zero; no pause at all cannot be had, so its own short one stays.
    pause = own.backoff if own.backoff is not None and milliseconds(own.backoff) > 0 else None
    return Retry(
        num_retries=own.attempts,
        retry_on=RetryOn(triggers=_NATIVE, http_status_codes=own.codes or _STANDARD_CODES),
        per_retry=PerRetryPolicy(
            timeout=rule.timeouts.backend_request if rule.timeouts is not None else None,
            back_off=BackOffPolicy(base_interval=pause),
        ),
    )


def check(_db: Db, retry: Effective[Retry]) -> Iterator[Problem]:
    per_retry = retry.value.per_retry
    back_off = per_retry.back_off if per_retry is not None else None
    if back_off is None:
        return
    base, longest = back_off.base_interval, back_off.max_interval
    if base is not None and milliseconds(base) == 0:
        yield Problem(
            "perRetry.backOff.baseInterval", f"baseInterval is {base!r}; it must be greater than zero."
        )
    if longest is not None and milliseconds(longest) == 0:
        yield Problem(
            "perRetry.backOff.maxInterval", f"maxInterval is {longest!r}; it must be greater than zero."
        )
    elif base is not None and longest is not None and milliseconds(longest) < milliseconds(base):
        yield Problem(
            "perRetry.backOff.maxInterval",
            f"maxInterval is {longest!r}; it must not be shorter than baseInterval, which is {base!r}.",
        )


def hints(retry: Retry) -> Iterator[Problem]:
    """Statuses without their trigger, and the trigger without statuses: Envoy needs both."""
    on = retry.retry_on
    if on is None or not on.triggers:
        return
    if on.http_status_codes and _STATUSES not in on.triggers:
        message = f"The statuses have no effect, as triggers has no {_STATUSES}. Add it."
        yield Problem("retryOn.httpStatusCodes", message, "Unused")
    if _STATUSES in on.triggers and not on.http_status_codes:
        message = f"The trigger {_STATUSES} retries the statuses in httpStatusCodes, which has none."
        yield Problem("retryOn.triggers", message, "Unused")


def route(edit: RouteEdit, retry: Effective[Retry]) -> None:
    edit.message.route.retry_policy.CopyFrom(_policy(retry.value))


def _policy(retry: Retry) -> RetryPolicy:
    policy = _standard()
    if retry.num_retries is not None:
        policy.num_retries.value = retry.num_retries
    if retry.num_attempts_per_priority is not None and retry.num_attempts_per_priority > 0:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        policy.retry_priority.typed_config.CopyFrom(
            packed(PreviousPrioritiesConfig(update_frequency=retry.num_attempts_per_priority))
        )
    on = retry.retry_on
    if on is not None and (on.triggers or on.http_status_codes):
        if on.triggers:
            policy.retry_on = ",".join(sorted(set(on.triggers)))
        policy.retriable_status_codes[:] = sorted(set(on.http_status_codes))
    if retry.per_retry is not None:
        if retry.per_retry.timeout is not None:
            policy.per_try_timeout.CopyFrom(duration(retry.per_retry.timeout))
        if retry.per_retry.back_off is not None:
            _back_off(policy, retry.per_retry.back_off)
    return policy


def _back_off(policy: RetryPolicy, back_off: BackOffPolicy) -> None:
    base, longest = back_off.base_interval, back_off.max_interval
    if longest is not None:
        policy.retry_back_off.max_interval.CopyFrom(duration(longest))
        # Envoy requires a base with a maximum, and the base must not be above the maximum.
        base = base or min(_ENVOY_BASE_INTERVAL, longest, key=milliseconds)
    if base is not None:
        policy.retry_back_off.base_interval.CopyFrom(duration(base))


def _standard() -> RetryPolicy:
    """Two retries on other endpoints, of requests that no backend processed: refused, not connected, 503."""
    return RetryPolicy(
        retry_on=",".join(_STANDARD),
        retriable_status_codes=_STANDARD_CODES,
        num_retries=UInt32Value(value=2),
        retry_host_predicate=[
            RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=packed(PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=5,
    )


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="retry",
    model=Retry,
    check=check,
    hints=hints,
    native=Native(read=native),
    route=route,
)

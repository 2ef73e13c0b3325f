"""Conditions for filters that a chain lacks because Envoy refuses the listener that has them.

Routes that rely on such a filter answer 500, unless they can do without it. Their statuses report it, and so
does the policy's status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.status.conditions import condition, sentence
from moongate.xds.filters import chain_filter, is_dispensable, missing_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moongate.api.base import Condition, ListenerId, Ref
    from moongate.engine import Db
    from moongate.policies.effective import RuleSettings


_CLOSED: Final = "Requests that rely on it are answered with 500"
_SERVED: Final = "Requests are served without it"


def refusals(db: Db, listener: ListenerId, settings: Iterable[RuleSettings]) -> Iterator[tuple[Ref, str]]:
    """The owners of filters that a listener's chain lacks, and why it lacks them: ``(owner, sentence)``.

    Args:
        db: where to read.
        listener: where the filters should be.
        settings: what asks for filters; not looked at while nothing is missing.
    """
    missing = dict(missing_on(db, listener))
    if not missing:
        return
    for feature, effective in (each for some in settings for each in some.features):
        one = chain_filter(db, feature, effective)
        if one is not None and one.name in missing:
            served = is_dispensable(db, listener, feature, effective, one)
            message = (
                f"Envoy refuses the listener {listener.name!r} of {listener.gateway} with a filter that "
                f"{effective.owner} asks for: {sentence(missing[one.name])} "
                f"{_SERVED if served else _CLOSED} until what Envoy names is mended."
            )
            yield effective.owner, message


def not_programmed(messages: Iterable[str], generation: int) -> Iterator[Condition]:
    """The condition that says so; none without messages."""
    if each := dict.fromkeys(messages):
        yield condition("Programmed", "False", "Refused", " ".join(each), generation)

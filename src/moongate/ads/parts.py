"""What one response has, and what is sent as several, one after another.

Facts
-----
* Envoy takes a response in one go, and nothing else meanwhile
* where it refuses some of a response, its message may not say which

So large changes are sent in parts, and what is refused without a name in smaller ones, until one resource is
alone. Secrets are alone at once (``secrets`` has the reason).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from moongate.ads import scopes, secrets
from moongate.ads.ledger import is_collection
from moongate.xds.wire import CLUSTER, ENDPOINT, SCOPE, SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moongate.ads.channels import Batch, Channel

MOST: Mapping[str, int] = {CLUSTER: 16, ENDPOINT: 100, SCOPE: 100}
"""How many resources are sent in one response to an Envoy that has some of the type already.

In it, a cluster takes Envoy 0.4 to 0.8 ms, a scope a tenth of that. An edit may change thousands, and
endpoints that change meanwhile do not wait for all of them. Smaller parts cost more in all: 16 clusters a
tenth more than 50; but 50 scopes a sixth more than 100, since Envoy copies the names of all scopes for each
response.
"""

MOST_SECRETS = 100
"""How many secrets are sent in one response. If Envoy refuses it, each is sent alone once more."""


def next_part(channel: Channel, most: Mapping[str, int]) -> Batch:
    """Take as much of what is staged as one response may have. The rest stays staged.

    So what changes meanwhile, or leaves, is not sent in the version that it had.

    Args:
        channel: has what is staged.
        most: type → how many resources are sent at once.
    """
    staged, size = channel.staged, most.get(channel.type_url)
    if size is None or len(staged.news) <= size:
        return staged.take()
    if channel.returning or not channel.ledger.holds_anything():
        return staged.take()
    if channel.type_url == SCOPE:
        # Removals and shared scopes stay until the last: requests for other hostnames go to the latter.
        names = [*islice((name for name in staged.news if not scopes.is_shared(name)), size)]
    elif channel.type_url == ENDPOINT:
        # Those that have changed last are at the end.
        half = size // 2
        names = [*islice(staged.news, size - half), *islice(reversed(staged.news), half)]
    else:
        names = [*islice(staged.news, size)]
    return staged.part(names) if names else staged.take()


def parts(channel: Channel, batch: Batch) -> list[Batch]:
    """The responses that a batch is sent as."""
    if channel.type_url == SECRET and len(batch.news) > 1:
        return _parts_of_secrets(channel, batch)
    if channel.type_url == SCOPE and batch.news and batch.gone:
        removals = batch.part([name for name in batch.gone if not is_collection(name)])
        return [batch, *([removals] if removals else [])]
    return [batch]


def _parts_of_secrets(channel: Channel, batch: Batch) -> list[Batch]:
    """Secrets in batches of a bounded size; alone those among which a culprit is looked for."""
    alone = [
        name
        for name, resource in batch.news.items()
        if name in channel.kept or secrets.respelled(resource) is None
    ]
    gone, batch.gone = batch.gone, {}
    first, *others = [*batch.part(alone).singly(), *batch.of_size(MOST_SECRETS)]
    first.gone = gone
    return [first, *others]


def parts_of_refused(channel: Channel, batch: Batch) -> Sequence[Batch]:
    """What a batch is sent again as, if Envoy did not say which of it it refuses."""
    if channel.type_url == SECRET:
        return batch.singly()
    return scopes.halves(batch) if channel.type_url == SCOPE else batch.halves()

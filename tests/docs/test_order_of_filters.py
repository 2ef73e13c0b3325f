"""The page about the order of filters names the filters of a chain, in their order."""

from __future__ import annotations

import re

from moongate.features import FEATURES
from tests.docs.test_docs import DOCS

NOT_IN_CHAINS = "envoy.filters.http.credential_injector"
"""It is a filter of clusters in the configuration that moongate ships, as the page says."""
OF_ROUTES = ["envoy.filters.http.grpc_web", "envoy.filters.http.grpc_stats"]
"""These come after all features: they are also there for GRPCRoutes, without any policy."""


def test_the_page_has_each_filter_in_its_place() -> None:
    filters = [
        each for feature in FEATURES for each in (feature.http_filter, feature.listener_filter) if each
    ]
    # An instance has the type, and a part that tells it from others of the type.
    types = dict.fromkeys(re.sub(r"(compressor)\..*|/.*", r"\1", each.name) for each in filters)
    features = [name for name in types if name not in (NOT_IN_CHAINS, *OF_ROUTES)]

    page = (DOCS / "how-to" / "order-of-filters.md").read_text("utf-8")

    assert re.findall(r"^\| `(envoy\S+)`", page, re.MULTILINE) == [*features, *OF_ROUTES]

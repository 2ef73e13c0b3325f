"""Faults that only Envoy finds: the schema takes them, and Envoy refuses what is built from them.

``validate`` alone cannot know of these; ``validate --envoy`` lets an Envoy judge.
"""

from __future__ import annotations

from tests.campaign.fault import ENVOY, Fault, Reading, swap

UNSEEN = "only Envoy knows; validate --envoy asks it"

FILTERS = "    filters:\n"


def refused(
    name: str, files: dict[str, str], of: str, at: str, field: str, value: str, **requests: int
) -> Fault:
    """A row in which Envoy refuses one route, which stays as it was while all others go on."""
    reading = Reading(at=at, of=of, field=field, value=value, right=ENVOY, meanwhile="stays so")
    return Fault(name=name, files=files, reads=(reading,), unseen=UNSEEN)


FAULTS = (
    refused(
        "a variable of Envoy that does not exist holds up its route alone",
        swap(
            "shop.yaml",
            ("value: open}", 'value: "%NOSUCH(a)%"}'),
            ("  - name: gateway", "  - «name: gateway"),
        ),
        "HTTPRoute default/shop",
        "shop.yaml",
        "spec.parentRefs[0]",
        "NOSUCH",
    ),
    refused(
        "a variable in a header of the request that does not exist holds up its route alone",
        swap(
            "shop.yaml",
            (
                FILTERS,
                FILTERS + "    - type: RequestHeaderModifier\n"
                '      requestHeaderModifier: {add: [{name: x-a, value: "%OTHER%"}]}\n',
            ),
            ("  - name: gateway", "  - «name: gateway"),
        ),
        "HTTPRoute default/shop",
        "shop.yaml",
        "spec.parentRefs[0]",
        "OTHER",
    ),
    refused(
        "a variable in the type of a page that does not exist holds up its route alone",
        swap(
            "pages.yaml",
            ("    statusCode: 200", '    contentType: "%THIRD%"\n    statusCode: 200'),
            ("[{name: gateway, sectionName: http}]", "[«{name: gateway, sectionName: http}]"),
        ),
        "HTTPRoute default/pages",
        "pages.yaml",
        "spec.parentRefs[0]",
        "THIRD",
    ),
)

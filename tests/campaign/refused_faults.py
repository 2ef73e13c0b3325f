"""Faults that only Envoy finds: the schema takes them, and Envoy refuses what is built from them.

``validate`` alone cannot know of these; ``validate --envoy`` lets an Envoy judge.
"""

from __future__ import annotations

from tests.campaign.fault import ENVOY, Fault, Reading, swap

UNSEEN = "only Envoy knows; validate --envoy asks it"

FILTERS = "    filters:\n"


def refused(name: str, files: dict[str, str], of: str, at: str, field: str, value: str) -> Fault:
    """A row in which Envoy refuses one part, which stays as it was while all others go on."""
    return Fault(name=name, files=files, reads=(said(at, of, field, value),), unseen=UNSEEN)


def said(at: str, of: str, field: str, value: str) -> Reading:
    return Reading(
        at=at, of=of, field=field, value=value, right=ENVOY, meanwhile="stays so", severity="warning"
    )


def settings(name: str, tls: str, value: str) -> Fault:
    """A row in which Envoy refuses a listener for a setting of its policy: both say so."""
    return Fault(
        name=name,
        files=swap("clients.yaml", ("  targetRefs", "  «targetRefs"), ('minVersion: "1.2"', tls)),
        reads=(
            said("clients.yaml", "ClientTrafficPolicy default/clients", "spec.targetRefs", value),
            said("gateway.yaml:8:5", "Gateway default/gateway", "spec.listeners[1]", value),
        ),
        unseen=UNSEEN,
    )


def logged(name: str, log: str, value: str) -> Fault:
    """A row in which Envoy refuses a listener for its access log."""
    telemetry = f"  telemetry: {{accessLog: {{settings: [{{{log}}}]}}}}\n"
    return refused(
        name,
        swap(
            "side.yaml",
            ("  concurrency: 1\n", f"  concurrency: 1\n{telemetry}"),
            ("[{name: http, port: @SIDE_PORT@", "[«{name: http, port: @SIDE_PORT@"),
        ),
        "Gateway default/side",
        "side.yaml",
        "spec.listeners[0]",
        value,
    )


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
    settings(
        "a cipher that Envoy does not take is said at the policy and at the listener",
        'minVersion: "1.2", ciphers: ["!AES128-SHA"]',
        "!AES128-SHA",
    ),
    logged(
        "a variable of a log in text that does not exist holds up its listener alone",
        'format: {type: Text, text: "%FOURTH%"}, sinks: [{type: File, file: {path: /dev/null}}]',
        "FOURTH",
    ),
    logged(
        "a variable of a log in JSON that does not exist holds up its listener alone",
        'format: {type: JSON, json: {a: "%FIFTH%"}}, sinks: [{type: File, file: {path: /dev/null}}]',
        "FIFTH",
    ),
    logged(
        "a file of a log that cannot be opened holds up its listener alone",
        "format: {type: Text, text: a}, sinks: [{type: File, file: {path: /nowhere/log}}]",
        "'/nowhere/log'",
    ),
)

"""Conflicts: two that want the same name, port, listener or target. The one that was there stays."""

from __future__ import annotations

from tests.campaign.fault import ONCE, Fault, Reading, more, swap
from tests.campaign.healthy import AWAY, CLIENTS, LIMITS, PRIVATE, SHOP, SIDE, USERS

GATEWAY = "Gateway default/gateway"
POLICY = PRIVATE.partition("---\n")[2]
AWAY_GRANT = AWAY.split("---\n")[2]
SIDE_GATEWAY = SIDE.split("---\n")[1]


def named(text: str, old: str, new: str) -> str:
    """A document under another name."""
    assert text.count(f"{{name: {old}}}") == 1
    return text.replace(f"{{name: {old}}}", f"{{name: {new}}}")


FAULTS = (
    # --- the same name -------------------------------------------------------------------------
    Fault(
        name="a route that is defined twice names both places",
        files={"copy.yaml": SHOP.replace("name: shop\n", "name: «shop\n").replace("/}", "/copy}")},
        reads=(
            Reading(
                at="copy.yaml",
                of="HTTPRoute default/shop",
                field="metadata.name",
                value="defined twice",
                right="Keep one of the two.",
                meanwhile="shop.yaml:4:9 is in force",
            ),
        ),
        differs="a start takes the first in the order of file names",
    ),
    Fault(
        name="a copy of a whole file names both places for each resource",
        files={"zcopy.yaml": USERS.replace("{name: users}", "{name: «users}")},
        reads=(
            Reading(
                at="zcopy.yaml",
                of="Secret default/users",
                field="metadata.name",
                value="defined twice",
                right="Keep one of the two.",
                meanwhile="users.yaml:3:18 is in force",
            ),
        ),
    ),
    Fault(
        name="a policy that is defined twice in one file names both places",
        files=more("limits.yaml", LIMITS.replace("{name: limits}", "{name: «limits}").replace("100", "7")),
        reads=(
            Reading(
                at="limits.yaml",
                of="BackendTrafficPolicy default/limits",
                field="metadata.name",
                value="defined twice",
                right="Keep one of the two.",
                meanwhile="limits.yaml:3:18 is in force",
            ),
        ),
    ),
    # --- the same requests ---------------------------------------------------------------------
    Fault(
        name="two routes for the same requests are named to each other",
        files={
            "twin.yaml": SHOP.replace("name: shop\n", "name: zwin\n").replace(
                "- name: gateway", "- «name: gateway"
            )
        },
        reads=(
            Reading(
                at="twin.yaml",
                of="HTTPRoute default/zwin",
                field="spec.parentRefs[0]",
                value="HTTPRoute default/shop",
                right="match the same requests",
                meanwhile="They go to the oldest of these routes",
                severity="warning",
            ),
        ),
        exits=0,
    ),
    # --- the same listener ---------------------------------------------------------------------
    Fault(
        name="two listeners of one name are refused",
        files=swap("gateway.yaml", ("  - name: https", "  - «name: http")),
        reads=(
            Reading(
                at="gateway.yaml:6:3",
                of=GATEWAY,
                field="spec.listeners",
                value="[1].name is 'http'",
                right="same name",
                meanwhile="Its last good state stays in force.",
            ),
            Reading(
                at="gateway.yaml",
                of=GATEWAY,
                field="spec.listeners[1]",
                value="'http'",
                right="each may stand once",
                meanwhile=ONCE,
            ),
        ),
    ),
    Fault(
        name="two listeners of one port and hostname are refused",
        files=swap(
            "gateway.yaml",
            ("  - name: https", "  - {name: again, port: @PORT@, protocol: HTTP}\n  - name: https"),
        ),
        reads=(
            Reading(
                at="gateway.yaml:6:3",
                of=GATEWAY,
                field="spec.listeners",
                value="[1].port is @PORT@",
                right="same port, protocol and hostname",
                meanwhile="Its last good state stays in force.",
            ),
        ),
    ),
    Fault(
        name="a port of another Gateway stays with the older",
        files=swap("side.yaml", ("[{name: http, port: @SIDE_PORT@", "[{«name: http, port: @PORT@")),
        reads=(
            Reading(
                at="side.yaml:12:15",
                of="Gateway default/side",
                field="spec.listeners[0]",
                value="@PORT@",
                right="default/gateway",
                meanwhile="nothing listens here",
            ),
        ),
        requests={"side": "ConnectError"},
    ),
    Fault(
        name="a second Gateway of the same port is not served",
        files={
            "twin.yaml": named(SIDE_GATEWAY, "side", "twin")
            .replace("@SIDE_PORT@", "@SIDE_PORT@")
            .replace("[{name: http, port", "[«{name: http, port")
        },
        reads=(
            Reading(
                at="twin.yaml",
                of="Gateway default/twin",
                field="spec.listeners[0]",
                value="@SIDE_PORT@",
                right="default/side",
                meanwhile="nothing listens here",
            ),
        ),
    ),
    Fault(
        name="two protocols on one port are a conflict of both listeners",
        files=swap(
            "side.yaml",
            (
                "[{name: http, port: @SIDE_PORT@, protocol: HTTP}]",
                (
                    "[«{name: http, port: @SIDE_PORT@, protocol: HTTP}, «{name: tls, port: @SIDE_PORT@,\n"
                    "    protocol: HTTPS, tls: {certificateRefs: [{name: certificate}]}}]"
                ),
            ),
        ),
        reads=(
            Reading(
                at="side.yaml",
                of="Gateway default/side",
                field="spec.listeners[0]",
                value="@SIDE_PORT@",
                right="protocol",
                meanwhile="serves nothing",
            ),
        ),
        requests={"side": "ConnectError"},
    ),
    Fault(
        name="a resource that stands in two versions of its API is defined twice",
        files={"old.yaml": AWAY_GRANT.replace("v1beta1", "v1").replace("{name: guests,", "{name: «guests,")},
        reads=(
            Reading(
                at="old.yaml",
                of="ReferenceGrant away/guests",
                field="metadata.name",
                value="defined twice",
                right="Keep one of the two.",
                meanwhile="away.yaml:14:18 is in force",
            ),
        ),
    ),
    Fault(
        name="a resource that stands twice in a list of resources is defined twice",
        files={
            "list.json": '{"apiVersion": "v1", "kind": "List", "items": [\n'
            '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "once"}},\n'
            '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": «"once", "labels": {}}}]}'
        },
        reads=(
            Reading(
                at="list.json",
                of="Namespace once",
                field="items[1].metadata.name",
                value="defined twice",
                right="Keep one of the two.",
                meanwhile="list.json:2:64 is in force",
            ),
        ),
    ),
    # --- the same target -----------------------------------------------------------------------
    Fault(
        name="two policies for the traffic of one route are a conflict",
        files={"more.yaml": named(LIMITS, "limits", "limits2").replace("  targetRefs", "  «targetRefs")},
        reads=(
            Reading(
                at="more.yaml",
                of="BackendTrafficPolicy default/limits2",
                field="spec.targetRefs",
                value="HTTPRoute default/shop",
                right="BackendTrafficPolicy",
                meanwhile="So this policy has no effect there.",
            ),
        ),
    ),
    Fault(
        name="two policies for the clients of one Gateway are a conflict",
        files={"more.yaml": named(CLIENTS, "clients", "clients2").replace("  targetRefs", "  «targetRefs")},
        reads=(
            Reading(
                at="more.yaml",
                of="ClientTrafficPolicy default/clients2",
                field="spec.targetRefs",
                value="Gateway default/gateway",
                right="ClientTrafficPolicy",
                meanwhile="So this policy has no effect there.",
            ),
        ),
    ),
    Fault(
        name="a second policy that guards one route does not open it",
        files={
            "more.yaml": named(POLICY, "members", "others")
            .replace("  targetRefs", "  «targetRefs")
            .replace("basicAuth: {users: {name: users}}", "cors: {allowOrigins: ['*']}")
        },
        reads=(
            Reading(
                at="more.yaml",
                of="SecurityPolicy default/others",
                field="spec.targetRefs",
                value="HTTPRoute default/private",
                right="SecurityPolicy",
                meanwhile="So this policy has no effect there.",
            ),
        ),
    ),
    # --- the same requests ---------------------------------------------------------------------
    # --- filters that exclude each other -------------------------------------------------------
    Fault(
        name="a redirect and a rewrite exclude each other",
        files=swap(
            "shop.yaml",
            (
                "    filters:\n",
                (
                    "    «filters:\n    - {type: RequestRedirect, requestRedirect: {scheme: https}}\n"
                    "    - {type: URLRewrite, urlRewrite: {hostname: a.test}}\n"
                ),
            ),
        ),
        reads=(
            Reading(
                at="shop.yaml:12:5",
                of="HTTPRoute default/shop",
                field="spec.rules[0]",
                value="RequestRedirect",
                right="must not have backendRefs",
                meanwhile="Its last good state stays in force.",
            ),
            Reading(
                at="shop.yaml",
                of="HTTPRoute default/shop",
                field="spec.rules[0].filters",
                value="RequestRedirect and URLRewrite",
                right="exclude each other",
                meanwhile=ONCE,
            ),
        ),
    ),
    Fault(
        name="a filter that stands twice is refused",
        files=swap(
            "shop.yaml",
            (
                "    filters:\n",
                (
                    "    filters:\n    - {type: URLRewrite, urlRewrite: {hostname: a.test}}\n"
                    "    - {type: URLRewrite, urlRewrite: {hostname: b.test}}\n"
                ),
            ),
        ),
        reads=(
            Reading(
                at="shop.yaml:14:5",
                of="HTTPRoute default/shop",
                field="spec.rules[0].filters",
                value="URLRewrite",
                right="Only one",
                meanwhile="Its last good state stays in force.",
            ),
        ),
    ),
    Fault(
        name="a target and a list of targets exclude each other",
        files=swap(
            "limits.yaml",
            (
                "spec:\n  targetRefs:\n",
                (
                    "«spec:\n  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}\n"
                    "  targetRefs:\n"
                ),
            ),
        ),
        reads=(
            Reading(
                at="limits.yaml",
                of="BackendTrafficPolicy default/limits",
                field="spec",
                right="Set exactly one of targetRef and targetRefs",
                meanwhile="Its last good state stays in force.",
                value="targetRef is set and targetRefs is set",
            ),
        ),
    ),
)

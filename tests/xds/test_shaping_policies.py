"""Which policies a refused route is reported on: those whose settings Envoy may mean, and no others."""

from __future__ import annotations

import pytest

from moongate.api.envoygateway import EnvoyGateway
from moongate.xds.wire import ROUTE, XdsResource
from tests import worlds
from tests.core import ON_HOST, WHOLE, policy, read
from tests.refusing import TABLE, Refusing, host

BAD = b"%FOO%"
"""What the Envoy of these tests refuses wherever it stands."""


class Shaped(Refusing):
    """An Envoy that refuses a table with a command that it does not know."""

    def __init__(self, *paths: str, config: EnvoyGateway = WHOLE) -> None:
        super().__init__(*paths)
        self.world.configure(config)
        self._bad = False

    def put(self, *manifests: str) -> None:
        """Put manifests in force, and settle."""
        resources = (resource for text in manifests for resource in read(text))
        self.world.apply({resource.ref: resource for resource in resources})
        self.settle()

    def answer(self, sent: XdsResource | None = None) -> bool:
        resource = sent or self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        self._bad = resource is not None and BAD in resource.body
        return super().answer(sent)

    def refuses(self, paths: set[str]) -> bool:
        return self._bad or super().refuses(paths)

    def blamed(self) -> dict[int, set[str]]:
        """By the number of a refused route, the names of the policies that it is reported on."""
        return {
            int(refusal.resources[0].name[1:]): {ref.name for ref in refusal.policies}
            for refusal in self.quarantine.refusals()
        }


def overriding(name: str, body: str, target: str = "HTTPRoute/r0") -> str:
    """A policy that puts a text in the place of responses."""
    override = f"{{match: {{statusCodes: [{{value: 404}}]}}, response: {{body: {body}}}}}"
    return policy("BackendTrafficPolicy", f"responseOverride: [{override}]", name=name, target=target)


def inline(text: str) -> str:
    return f"{{type: Inline, inline: '{text}'}}"


CORS = policy("SecurityPolicy", "cors: {allowOrigins: ['https://a.test']}", name="cors", target="Gateway/eg")


@pytest.mark.parametrize("config", [WHOLE, ON_HOST], ids=["whole", "as shipped"])
def test_a_route_is_reported_on_the_policy_whose_setting_is_refused_and_on_no_other(
    config: EnvoyGateway,
) -> None:
    envoy = Shaped("/a", "/b", config=config)
    envoy.put(CORS, overriding("of-r0", inline("gone")))
    assert envoy.blamed() == {}

    envoy.put(overriding("of-r0", inline("%FOO%")))
    assert envoy.blamed() == {0: {"of-r0"}}
    assert envoy.serves == {host(0): "/a!", host(1): "/b"}

    envoy.put(overriding("of-r0", inline("mended")))
    assert envoy.blamed() == {}
    assert envoy.serves == {host(0): "/a", host(1): "/b"}


def test_a_policy_that_is_refused_from_the_start_is_found_beside_those_that_envoy_takes() -> None:
    """Without a last good form: other routes show which settings are good."""
    envoy = Shaped("/a", "/b")

    envoy.put(CORS, overriding("of-r0", inline("%FOO%")))

    assert envoy.blamed() == {0: {"of-r0"}}


def test_a_policy_of_a_gateway_is_reported_for_each_of_its_routes() -> None:
    envoy = Shaped("/a", "/b")
    envoy.put(CORS)

    envoy.put(overriding("of-all", inline("%FOO%"), target="Gateway/eg"))

    assert envoy.blamed() == {0: {"of-all"}, 1: {"of-all"}}


@pytest.mark.parametrize("new", [True, False], ids=["new", "edited"])
def test_a_mistake_of_a_route_is_not_blamed_on_the_policies_above_it(*, new: bool) -> None:
    """Else whoever writes a route could put an alarm on a policy of the whole gateway."""
    envoy = Shaped("/a", "/b")
    envoy.put(CORS, overriding("of-all", inline("gone"), target="Gateway/eg"))
    if new:
        envoy.edit(1, None)

    envoy.edit(1, "/b", odd=True)

    assert envoy.blamed() == {1: set()}


def test_where_nothing_is_in_force_yet_all_policies_are_named_that_may_be_meant() -> None:
    """Envoy's words stand beside them, and one of them has what is in these words."""
    envoy = Shaped("/a")

    envoy.put(CORS, overriding("of-r0", inline("%FOO%")))

    assert envoy.blamed() == {0: {"cors", "of-r0"}}


def test_a_text_that_a_policy_refers_to_is_the_mistake_of_the_policy() -> None:
    """The policy itself did not change."""
    text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: text, namespace: default}, data: {body: %s}}"
    referring = overriding("of-r0", "{type: ValueRef, valueRef: {group: '', kind: ConfigMap, name: text}}")
    envoy = Shaped("/a", "/b")
    envoy.put(text % "gone", referring)
    assert envoy.blamed() == {}

    envoy.put(text % "'%FOO%'")

    assert envoy.blamed() == {0: {"of-r0"}}


def test_a_setting_that_stands_in_fields_of_the_route_is_found_as_well() -> None:
    """One of several tags is new; what the policy said before is not at fault."""
    envoy = Shaped("/a")
    envoy.put(CORS, overriding("of-all", inline("gone"), target="Gateway/eg"), tagging(a="fine"))
    assert envoy.blamed() == {}

    envoy.put(tagging(a="fine", b="%FOO%"))

    assert envoy.blamed() == {0: {"of-r0"}}


def tagging(**tags: str) -> str:
    """A policy that puts tags on spans, and merges."""
    written = ", ".join(f"{tag}: {{type: Literal, literal: {{value: '{tags[tag]}'}}}}" for tag in tags)
    spec = f"{{mergeType: StrategicMerge, telemetry: {{tracing: {{customTags: {{{written}}}}}}}}}"
    return policy("BackendTrafficPolicy", spec, name="of-r0", target="HTTPRoute/r0")


def test_of_policies_that_merge_the_one_with_the_refused_setting_is_reported() -> None:
    envoy = Shaped("/a")
    envoy.put(overriding("of-all", inline("gone"), target="Gateway/eg"))
    merging = "{mergeType: StrategicMerge, timeout: {http: {requestTimeout: 9s}}}"
    envoy.put(policy("BackendTrafficPolicy", merging, name="of-r0", target="HTTPRoute/r0"))

    envoy.put(overriding("of-all", inline("%FOO%"), target="Gateway/eg"))

    assert envoy.blamed() == {0: {"of-all"}}


def test_where_envoy_refuses_the_match_no_policy_is_at_fault() -> None:
    envoy = Shaped("/a", "/b")
    envoy.put(overriding("of-r1", inline("gone"), target="HTTPRoute/r1"))
    envoy.edit(1, None)

    envoy.edit(1, "/refused")

    assert set(envoy.blamed()) == {1}
    assert envoy.blamed() == {1: set()}

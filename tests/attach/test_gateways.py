"""Which Gateways are ours, and the settings that hold for each."""

from __future__ import annotations

import pytest
from msgspec import structs

from moongate.api.base import Ref
from moongate.api.envoyproxy import LOG_COMPONENTS, EnvoyProxy, EnvoyProxySpec, MergeBackends
from moongate.api.gateway import Gateway
from moongate.attach.gateways import (
    managed,
    on_host,
    proxy,
    proxy_problems,
    rejection,
)
from tests.core import EG, IN_CLUSTER, ON_HOST, Core, extension, gateway, gateway_class, http

CLASS_WITH_PROXY = gateway_class("class")
NAMED = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "own"}}


def envoy_proxy(name: str, spec: str) -> str:
    return extension("EnvoyProxy", name, spec)


def test_a_gateway_is_ours_when_its_class_names_our_controller() -> None:
    core = Core(gateway(http("web")), gateway(http("web"), name="b").replace("Name: eg", "Name: other"))

    assert managed(core.db, EG)
    assert not managed(core.db, Ref.of(Gateway, "default", "b"))


def test_the_configuration_says_whether_envoy_runs_on_this_host() -> None:
    assert (on_host(Core().db), on_host(Core(config=ON_HOST).db)) == (False, True)


@pytest.mark.parametrize(
    ("own", "ip_family"),
    [("{concurrency: 4}", None), ("{concurrency: 4, mergeType: StrategicMerge}", "IPv6")],
)
def test_a_gateways_own_settings_replace_those_of_its_class_or_merge_with_them(
    own: str, ip_family: str | None
) -> None:
    core = Core(
        gateway(http("web"), infrastructure=NAMED),
        CLASS_WITH_PROXY,
        envoy_proxy("class", "{ipFamily: IPv6, concurrency: 2}"),
        envoy_proxy("own", own),
    )

    spec = proxy(core.db, EG).spec

    assert (spec.concurrency, spec.ip_family) == (4, ip_family)


def test_merged_backends_are_kept_by_settings_that_say_nothing_of_them() -> None:
    """Unlike the rest, which an EnvoyProxy replaces as a whole."""
    config = structs.replace(IN_CLUSTER, envoy_proxy=EnvoyProxySpec(merge_backends=MergeBackends()))
    core = Core(
        gateway(http("web"), infrastructure=NAMED), envoy_proxy("own", "{concurrency: 4}"), config=config
    )

    assert proxy(core.db, EG).spec.merge_backends == MergeBackends()


@pytest.mark.parametrize("merge_type", ["", ", mergeType: StrategicMerge", ", mergeType: JSONMerge"])
def test_a_class_that_merges_its_gateways_inherits_no_merged_backends(merge_type: str) -> None:
    """The two exclude each other. mergeBackends is our default, and mergeGateways is what a user wrote."""
    core = Core(
        gateway(http("web")),
        CLASS_WITH_PROXY,
        envoy_proxy("class", f"{{mergeGateways: true{merge_type}}}"),
        config=ON_HOST,
    )

    assert ON_HOST.envoy_proxy is not None
    assert ON_HOST.envoy_proxy.merge_backends is not None
    assert proxy(core.db, EG).spec.merge_backends is None
    assert rejection(core.db, EG) is None


def test_a_class_that_does_not_merge_its_gateways_inherits_merged_backends() -> None:
    core = Core(
        gateway(http("web")),
        CLASS_WITH_PROXY,
        envoy_proxy("class", "{mergeGateways: false}"),
        config=ON_HOST,
    )

    assert proxy(core.db, EG).spec.merge_backends == MergeBackends()


@pytest.mark.parametrize(
    ("own", "accepted"),
    [("{mergeType: JSONMerge}", False), ("{mergeType: StrategicMerge}", False), ("{}", True)],
)
@pytest.mark.parametrize("of_class", ["", "{concurrency: -1}"])
def test_settings_that_merge_with_those_of_a_class_need_these(
    own: str, accepted: bool, of_class: str
) -> None:
    """Without them it would show backends no certificate, say, and nobody would be told."""
    core = Core(gateway(http("web"), infrastructure=NAMED), CLASS_WITH_PROXY, envoy_proxy("own", own))
    core.apply(*([envoy_proxy("class", of_class)] if of_class else []))

    assert (rejection(core.db, EG) is None) == accepted


def test_parameters_of_another_kind_are_refused() -> None:
    other = {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "own"}}
    core = Core(gateway(http("web"), infrastructure=other))

    problem = rejection(core.db, EG)

    assert problem is not None
    assert problem.reason == "InvalidParameters"


def test_a_circle_of_filters_is_reported_as_a_circle() -> None:
    moves = (
        "{filterOrder: [{name: envoy.filters.http.cors, before: envoy.filters.http.fault}, "
        "{name: envoy.filters.http.fault, before: envoy.filters.http.cors}]}"
    )
    core = Core(envoy_proxy("own", moves))

    [problem] = proxy_problems(core.db, Ref.of(EnvoyProxy, "default", "own"))

    assert problem.path == "spec.filterOrder"
    assert problem.message.count(" -> ") == 2


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        pytest.param(
            '{extraArgs: [--ok, "a\\0b"]}', "spec.extraArgs[1]", "The argument has a NUL character", id="nul"
        ),
        pytest.param(
            f"{{extraArgs: [{'x' * 131_072}]}}",
            "spec.extraArgs[0]",
            "The argument has 131072 bytes",
            id="long",
        ),
        pytest.param(
            "{logging: {level: {upstreams: info}}}",
            "spec.logging.level",
            "did you mean upstream?",
            id="component",
        ),
        pytest.param("{concurrency: -5}", "spec.concurrency", "must be 1 or more", id="threads"),
        pytest.param('{logging: {level: {"": info}}}', "spec.logging.level", "no component ''", id="empty"),
        pytest.param(
            '{logging: {level: {"a\\0b": info}}}',
            "spec.logging.level",
            r"no component 'a\x00b'",
            id="nul-key",
        ),
    ],
)
def test_what_no_envoy_could_be_started_with_is_a_problem(spec: str, path: str, message: str) -> None:
    """Otherwise an Envoy would end at once, which says less, and later."""
    core = Core(envoy_proxy("own", spec))

    [problem] = proxy_problems(core.db, Ref.of(EnvoyProxy, "default", "own"))

    assert problem.path == path
    assert message in problem.message


def test_any_component_of_envoy_may_log() -> None:
    levels = ", ".join(f"{component}: info" for component in sorted(LOG_COMPONENTS))
    core = Core(envoy_proxy("own", f"{{logging: {{level: {{{levels}}}}}}}"))

    assert proxy_problems(core.db, Ref.of(EnvoyProxy, "default", "own")) == ()

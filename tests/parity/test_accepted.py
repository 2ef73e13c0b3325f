"""What Envoy Gateway's own cases become is taken by a real Envoy, in its configuration and in ours."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from moongate import translate
from moongate.infra.binary import envoy_binary
from moongate.infra.dry_run import Refused, refusals
from moongate.xds.wire import XdsResource, encode
from tests.parity.test_ratchet import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

CASES = SCRIPT.with_name("cases")

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.long,
    pytest.mark.skipif(not CASES.exists(), reason="the parity cases are not beside the checkout"),
]


def fleets(case: dict[str, Any], *, shipped: bool) -> Iterator[tuple[str, dict[str, dict[str, XdsResource]]]]:
    config = None if shipped else case["config"]
    for fleet, types in translate(case["documents"], config=config, namespace=case["namespace"]).xds.items():
        yield fleet, {url: encoded(url, named.items()) for url, named in types.items()}


def encoded(type_url: str, named: Any) -> dict[str, XdsResource]:
    messages: Iterator[tuple[str, Message]] = iter(named)
    return {name: XdsResource.of(type_url, name, encode(message)) for name, message in messages}


@pytest.mark.parametrize("shipped", [True, False], ids=["our configuration", "the reference's"])
def test_nothing_of_any_case_is_refused(*, shipped: bool) -> None:
    binary = envoy_binary()

    def refused(fleet: str, resources: dict[str, dict[str, XdsResource]]) -> tuple[Refused, ...]:
        # The authority of the rate limit service lies in the pods of a cluster, and not here.
        lacking = "Invalid path: /certs/ca.crt."
        return tuple(each for each in refusals(binary, fleet, resources) if each.message != lacking)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        asked = {
            f"{path.stem} {fleet}": pool.submit(refused, fleet, resources)
            for path in sorted(CASES.glob("*.json"))
            for fleet, resources in fleets(json.loads(path.read_bytes()), shipped=shipped)
        }

    assert len(asked) > 300
    assert {case: answer.result() for case, answer in asked.items() if answer.result()} == {}

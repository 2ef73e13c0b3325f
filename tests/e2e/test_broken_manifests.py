"""A folder of broken manifests, all at once, beside a healthy one that is served.

The laws are those of the campaign (``tests.campaign.house``), which tries one fault after the other.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.campaign.healthy import HEALTHY
from tests.campaign.house import Claim, House, house, strays, until
from tests.e2e.broken_manifests import SOUND, Broken, broken
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


async def test_150_broken_manifests_hurt_nothing_beside_them_and_each_is_said(tmp_path: Path) -> None:
    manifests = list(broken())
    assert len(manifests) >= 150
    async with house(tmp_path) as gateway, gateway.running():
        await until(gateway.serves(str(gateway.turn())))
        await gateway.well()
        before, footprint = await state(gateway), await gateway.footprint()
        gateway.values |= {"SPARE": str(free_port()), "OTHER": str(free_port())}
        began, asked = gateway.mark(), gateway.output.stat().st_size
        async with gateway.steady() as answers:
            gateway.write({"sound.yaml": SOUND})
            await until(gateway.serves(str(gateway.turn())))
            gateway.write({f"broken-{n}.yaml": each.text for n, each in enumerate(manifests)})
            await until(gateway.serves(str(gateway.turn())))
            await until(says_each(gateway, manifests))
            await until(gateway.gets(HEALTHY))
            assert gateway.report()[0] == 1
            await gateway.shows_no_secret(began, asked)
            gateway.mend()
            await gateway.well()
        assert strays(answers)[:5] == []
        assert gateway.process.returncode is None

        async def is_as_before() -> str:
            now = await state(gateway)
            return "" if now == before else f"it was\n{before}\nand is\n{now}"

        await until(is_as_before)
        await until(gateway.holds_no_more(footprint))


def says_each(gateway: House, manifests: Iterable[Broken]) -> Claim:
    """Whether a message or a condition names each resource, and what is wrong with it."""

    async def claim() -> str:
        said = messages(gateway)
        unsaid = [
            f"{each.of or each.text[:80]!r}: {each.says}, but {said.get(each.of)}"
            for each in manifests
            if not any(all(word in text for word in each.says) for text in said.get(each.of, ()))
        ]
        return "\n".join(unsaid)

    return claim


def messages(gateway: House) -> dict[str, list[str]]:
    """All that the log and the statuses say, by resource: of very many conditions the log has some alone."""
    said: dict[str, list[str]] = defaultdict(list)
    for each in gateway.said(0):
        said[each.of].append(f"{each.field}: {each.text}")
    for document in gateway.report()[1]["resources"]:
        metadata = document["metadata"]
        name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
        text = json.dumps(document["status"], ensure_ascii=False)
        said[f"{document['kind']} {name}"] += map(json.loads, _MESSAGE.findall(text))
    return said


_MESSAGE = re.compile(r'"message": ("(?:[^"\\]|\\.)*")')
_TIME = re.compile(r'"lastTransitionTime": "[^"]*"')
_NAME = re.compile(r'"(?:cluster_)?name": ?"([^"]*)"')


async def state(gateway: House) -> tuple[Any, list[list[str]]]:
    """What is reported of all resources, without times, and the names of all that Envoys have."""
    resources = _TIME.sub('"then": 0', json.dumps(gateway.report()[1]["resources"]))
    return json.loads(resources), [sorted(set(_NAME.findall(dump))) for dump in await gateway.dumps()]

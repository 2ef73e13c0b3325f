"""What Envoy refuses of a listener: the chain or filter alone is out of force, and all else goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from google.protobuf.wrappers_pb2 import StringValue
from msgspec import structs

from moongate.xds.http_chains import https_settings
from moongate.xds.wire import encode, message_field, packed
from tests.e2e import manifests as m
from tests.e2e.conftest import reference
from tests.e2e.test_security import htpasswd
from tests.ports import free_port

if TYPE_CHECKING:
    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.engine import Db
    from moongate.xds.filter_chains import ChainSettings
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

NAMES = ("left", "middle", "right")
BROKEN = "a chain that is broken"
"""A cell with the name of a chain that Envoy is to refuse."""
RULES = f"[{{{m.to('one')}}}]"


def listeners(site: Site, port: int) -> list[m.Document]:
    """Three HTTPS listeners on a port, each with a certificate and a route of its own."""
    entries = [
        f"{{name: {n}, port: {port}, protocol: HTTPS, hostname: {n}.test, "
        f"tls: {{certificateRefs: [{{name: of-{n}}}]}}}}"
        for n in NAMES
    ]
    gateway = m.gateway("chains", f"[{', '.join(entries)}]")
    certificates = [site.authority.sign(f"{n}.test").secret(f"of-{n}") for n in NAMES]
    routes = [m.route(n, RULES, parents=f"[{{name: chains, sectionName: {n}}}]") for n in NAMES]
    return [gateway, *certificates, *routes]


def programmed(site: Site, gateway: m.Document) -> dict[str, str]:
    """The listeners of a Gateway, each with the status of ``Programmed``."""
    document = site.laptop.statuses.document(reference(gateway))
    assert document is not None
    return {
        each["name"]: next(c["status"] for c in each["conditions"] if c["type"] == "Programmed")
        for each in document["status"]["listeners"]
    }


async def test_a_chain_that_envoy_refuses_leaves_the_others_of_its_port_free_to_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = https_settings.fn

    def broken(db: Db, group: ChainGroup) -> ChainSettings:
        """The chain with a network filter that Envoy does not know, where a cell says so."""
        settings = build(db, group)
        if db.read(BROKEN) != group.name:
            return settings
        unknown = Filter(name="no.such.filter", typed_config=packed(StringValue(value="x")))
        chain = settings.chain + message_field(FilterChain.FILTERS_FIELD_NUMBER, encode(unknown))
        return structs.replace(settings, chain=chain)

    monkeypatch.setattr(https_settings, "fn", broken)
    port = free_port()
    gateway, *others = listeners(site, port)
    await site.apply(gateway, *others)
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}

    site.laptop.world.write(BROKEN, "default/chains/middle")
    await site.apply(m.route("another", RULES))

    assert programmed(site, gateway) == {"left": "True", "middle": "False", "right": "True"}
    assert "no.such.filter" in str(site.conditions(gateway)["Programmed"])
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}

    users = m.secret("of-chains", _htpasswd=htpasswd(ann="secret"))
    basic = "basicAuth: {users: {name: of-chains}, forwardUsernameHeader: x-user}"
    await site.apply(users, m.policy("SecurityPolicy", "left", basic, "HTTPRoute/left"))

    assert await site.status("left.test", port=port, tls=True) == 401
    assert await site.status("left.test", port=port, tls=True, auth=("ann", "secret")) == 200
    assert await site.status("middle.test", port=port, tls=True) == 200

    site.laptop.world.write(BROKEN, None)
    await site.delete(m.route("another", RULES))

    assert set(programmed(site, gateway).values()) == {"True"}
    assert await site.status("middle.test", port=port, tls=True) == 200
    await site.delete(gateway, *others)

"""What is kept out of one resource is kept out of no other."""

from __future__ import annotations

from moongate.api.base import ListenerId
from moongate.xds.fallbacks import Fallback, withheld
from moongate.xds.route_entries import fail_closed, in_force
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.wire import LISTENER, ROUTE, version
from tests.core import EG, EG_FLEET, ON_HOST, Core, gateway, http
from tests.routes import WEB, http_route, route_ref, service

ALT = ListenerId(EG, EG, "alt")


def test_an_entry_is_kept_out_of_its_own_table_and_of_no_other() -> None:
    """An Envoy may refuse a route in one table and take it in another."""
    listeners = gateway(http("web"), http("alt", port=8080))
    core = Core(listeners, service(), http_route(), config=ON_HOST)
    entries = {at: route_entries_of(core.db, at, route_ref(), False) for at in (WEB, ALT)}
    kept_out = {
        version(each.body): Fallback(None, strict=False) for some in entries.values() for each in some
    }

    core.db.put(withheld(EG_FLEET, ROUTE, "default/eg/web", route_ref()), kept_out)
    core.db.put(withheld(EG_FLEET, LISTENER, "default/eg/alt", route_ref()), kept_out)
    core.db.put(withheld(EG_FLEET, ROUTE, "default/eg/alt", route_ref("more")), kept_out)

    assert list(in_force(core.db, WEB, route_ref(), entries[WEB], scoped=False)) == [
        fail_closed(each) for each in entries[WEB]
    ]
    assert list(in_force(core.db, ALT, route_ref(), entries[ALT], scoped=False)) == list(entries[ALT])

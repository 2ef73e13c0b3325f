"""A World, a quarantine, and Envoys that refuse what a test says: no process."""

from __future__ import annotations

from collections.abc import Callable

from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from msgspec import structs

from moongate.api.backend import Backend
from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute, HTTPRouteFilter
from moongate.api.route import HTTPHeader, HTTPHeaderFilter
from moongate.quarantine import Quarantine
from moongate.quarantine.search import Steps
from moongate.world import World
from moongate.xds.wire import CLUSTER, ROUTE, XdsResource
from tests import worlds
from tests.core import WHOLE

TABLE = "default/eg/http"
NODE = "envoy-1"
WORDS = "Envoy does not like it."
REFUSED = "/refused"
"""A path that the Envoy of these tests refuses."""
ODD = "%NOPE%"
"""What it refuses as the value of a header or a tag."""
DISLIKED = "/disliked"
"""A path of which it refuses all but a plain answer: what is wrong with the route is not its match."""


def finished(steps: Steps) -> bool:
    """What some steps end with."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class Refusing:
    """A World, a quarantine, and an Envoy that takes a table of routes or refuses it as a whole.

    Attributes:
        serves: the first path in force, by hostname; those that are answered with 500 end in "!", those that
            Envoy refuses for a header in "?".
        paths: all paths in force, in the same form.
        taken: the table in force.
        answers: how often Envoy was asked.
    """

    def __init__(self, *paths: str) -> None:
        self.world = World.of(
            [
                worlds.gateway_class(),
                worlds.gateway(),
                *(worlds.backend(n) for n in range(len(paths))),
                *(worlds.route(n, path, kind=Backend.KIND) for n, path in enumerate(paths)),
            ],
            WHOLE,
        )
        self.quarantine = Quarantine(self.world)
        self.serves: dict[str, str] = {}
        self.paths: list[str] = []
        self.taken = RouteConfiguration()
        self.answers = 0
        self.refuses_all = False
        self._answered = ""

    def settle(self, watch: Callable[[], None] = lambda: None) -> None:
        """Let Envoy answer until there is nothing more to say; ``watch`` is called after each answer."""
        again = True
        while again:
            self.world.pull()
            again = self.review() | self.answer()
            watch()

    def late(self, edit: Callable[[], None]) -> None:
        """Let Envoy answer for what it was sent after it is edited."""
        self.world.pull()
        sent = self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        self.review()
        edit()
        self.world.pull()
        self.answer(sent)
        self.review()
        self.world.pull()

    def review(self) -> bool:
        """Go on with what can be judged. True if the world is to be settled again."""
        return finished(self.quarantine.review())

    def edit(self, n: int, path: str | None, *, odd: bool = False) -> None:
        """Give a route another path, or delete it; and settle."""
        self.apply(n, path, odd=odd)
        self.settle()

    def apply(self, n: int, path: str | None, *, odd: bool = False) -> None:
        """Give a route another path, or delete it, and leave Envoy behind.

        What is odd about a route is a header, for which Envoy refuses it whatever it matches.
        """
        ref = Ref.of(HTTPRoute, "default", f"r{n}")
        route = None if path is None else worlds.route(n, path, kind=Backend.KIND)
        self.world.apply({ref: route if route is None or not odd else oddly(route)})

    def step(self) -> None:
        """Let Envoy answer once."""
        self.world.pull()
        self.review()
        self.world.pull()
        self.answer()

    def version(self) -> str:
        """That of the table as it should be."""
        resource = self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        assert resource is not None
        return resource.version

    def refused(self) -> set[int]:
        """The routes that the quarantine reports as refused, by number."""
        return {int(ref.name[1:]) for refusal in self.quarantine.refusals() for ref in refusal.resources}

    def clusters(self) -> set[str]:
        """The backends that there are clusters of."""
        names = self.world.xds()["default/eg"][CLUSTER]
        return {name.split("/")[2] for name in names if name.startswith("backend/")}

    def answer(self, sent: XdsResource | None = None) -> bool:
        """Answer for what is sent, by default what there is. False if that was answered before."""
        resource = sent or self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        assert resource is not None
        if resource.version == self._answered:
            return False  # nothing is sent twice
        self._answered = resource.version
        self.answers += 1
        assert self.answers < 1000, "the search does not come to an end"
        table = RouteConfiguration.FromString(resource.body)
        paths = [_marked_path(route) for host in table.virtual_hosts for route in host.routes]
        if self.refuses(set(paths)) or (self.refuses_all and paths):
            self.quarantine.refused(worlds.EG_FLEET, NODE, ROUTE, TABLE, resource.version, WORDS)
        else:
            self.paths = paths
            self.taken = table
            self.serves = {
                host.domains[0]: _marked_path(host.routes[0]) for host in table.virtual_hosts if host.routes
            }
            self.quarantine.acknowledged(worlds.EG_FLEET, NODE, ROUTE, TABLE, resource.version)
        return True

    def refuses(self, paths: set[str]) -> bool:
        return bool({REFUSED, f"{REFUSED}!", DISLIKED} & paths) or any(path.endswith("?") for path in paths)


def oddly(route: HTTPRoute) -> HTTPRoute:
    """The route with a header that Envoy refuses."""
    change = HTTPHeaderFilter(set=(HTTPHeader(name="x", value=ODD),))
    odd = HTTPRouteFilter(type="ResponseHeaderModifier", response_header_modifier=change)
    rules = tuple(structs.replace(rule, filters=(*rule.filters, odd)) for rule in route.spec.rules)
    return structs.replace(route, spec=structs.replace(route.spec, rules=rules))


def _marked_path(route: Route) -> str:
    """The path of a route, with "?" if it has the odd header or an odd tag, with "!" if it answers 500."""
    odd_tag = any(ODD.encode() in tag.SerializeToString() for tag in route.tracing.custom_tags)
    if route.response_headers_to_add or odd_tag:
        return f"{route.match.path_separated_prefix or route.match.prefix}?"
    shut = "!" if route.direct_response.status == 500 else ""
    return f"{route.match.path_separated_prefix or route.match.prefix}{shut}"


def host(n: int) -> str:
    return f"h{n}.example.com"


class Several(Refusing):
    """Envoys of one fleet, each with paths of its own that it refuses; they answer in turns."""

    def __init__(self, refuses: dict[str, set[str]], *paths: str) -> None:
        super().__init__(*paths)
        self.dislikes = refuses
        self.tables: dict[str, dict[str, str]] = {node: {} for node in refuses}
        self.silent: set[str] = set()
        for node in refuses:
            self.quarantine.connected(worlds.EG_FLEET, node)
        self.answered = dict.fromkeys(refuses, "")

    def join(self, node: str, dislikes: set[str]) -> None:
        """An Envoy comes; and settle."""
        self.dislikes[node] = dislikes
        self.answered[node] = ""
        self.tables[node] = {}
        self.quarantine.connected(worlds.EG_FLEET, node)
        self.settle()

    def answer(self, sent: XdsResource | None = None) -> bool:
        resource = sent or self.world.resource(worlds.EG_FLEET, ROUTE, TABLE)
        assert resource is not None
        moved = False
        for node in sorted(self.dislikes.keys() - self.silent):
            if self.answered[node] == resource.version:
                continue  # nothing is sent twice
            self.answered[node] = resource.version
            self.answers += 1
            assert self.answers < 1000, "the search does not come to an end"
            table = RouteConfiguration.FromString(resource.body)
            paths = {
                host.domains[0]: _marked_path(host.routes[0]) for host in table.virtual_hosts if host.routes
            }
            about = (worlds.EG_FLEET, node, ROUTE, TABLE, resource.version)
            if self.dislikes[node] & set(paths.values()):
                self.quarantine.refused(*about, WORDS)
            else:
                self.tables[node] = paths
                self.quarantine.acknowledged(*about)
            moved = True
        return moved

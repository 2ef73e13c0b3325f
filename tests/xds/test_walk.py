from __future__ import annotations

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuth
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from moongate.xds.walk import packed_types, unpacked, visit
from moongate.xds.wire import packed


def listener(config: AnyMessage) -> Listener:
    return Listener(filter_chains=[FilterChain(filters=[Filter(name="auth", typed_config=config)])])


def test_messages_are_visited_from_outside_in() -> None:
    seen: list[str] = []

    visit(
        listener(packed(BasicAuth(users=DataSource(filename="x")))), lambda m: seen.append(type(m).__name__)
    )

    assert seen == ["Listener", "FilterChain", "Filter", "BasicAuth", "DataSource"]


def test_what_is_packed_can_be_edited() -> None:
    def change(inner: Message) -> None:
        if isinstance(inner, DataSource):
            inner.filename = "y"

    message = listener(packed(BasicAuth(users=DataSource(filename="x"))))
    visit(message, change)

    assert unpacked(message.filter_chains[0].filters[0].typed_config) == BasicAuth(
        users=DataSource(filename="y")
    )


def test_the_values_of_maps_are_visited() -> None:
    seen: list[str] = []
    route = Route()
    route.typed_per_filter_config["auth"].CopyFrom(packed(DataSource(filename="x")))

    visit(route, lambda m: seen.append(type(m).__name__))

    assert seen == ["Route", "DataSource"]


def test_a_type_that_is_not_known_is_left_alone() -> None:
    strange = AnyMessage(type_url="type.googleapis.com/no.such.Type", value=b"\xff")
    message = listener(strange)

    visit(message, lambda _: None)

    assert message == listener(strange)


def test_the_types_of_what_is_packed_are_named_from_outside_in() -> None:
    route = Route()
    route.typed_per_filter_config["auth"].CopyFrom(packed(packed(BasicAuth())))
    strange = AnyMessage(type_url="type.googleapis.com/no.such.Type", value=b"\xff")

    assert [name.rpartition(".")[2] for name in packed_types(route)] == ["Any", "BasicAuth"]
    assert list(packed_types(listener(strange))) == ["no.such.Type"]

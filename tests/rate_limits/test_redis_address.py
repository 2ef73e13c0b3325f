from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.rate_limits.redis_address import RedisAddress, RedisAddressError, redis_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis.example:6380", RedisAddress(nodes=(("redis.example", 6380),))),
        ("localhost", RedisAddress(nodes=(("localhost", 6379),))),
        ("redis://[::1]:7000/3", RedisAddress(nodes=(("::1", 7000),), db=3)),
        (
            "rediss://anne:p%40ss@redis.example",
            RedisAddress(nodes=(("redis.example", 6379),), username="anne", password="p@ss", tls=True),
        ),
        ("redis://:secret@r", RedisAddress(nodes=(("r", 6379),), password="secret")),
        ("redis://:p@ss@r", RedisAddress(nodes=(("r", 6379),), password="p@ss")),
        ("redis://:a%2Cb%3A%2F%2F%20%25@r", RedisAddress(nodes=(("r", 6379),), password="a,b:// %")),
        ("redis://r?password=a@b", RedisAddress(nodes=(("r", 6379),), password="a@b")),
        (
            "redis://u:p@a:1, b:2",
            RedisAddress(nodes=(("a", 1), ("b", 2)), kind="cluster", username="u", password="p"),
        ),
        ("unix:///run/redis.sock?db=2", RedisAddress(path="/run/redis.sock", db=2)),
        ("a:1,b:2", RedisAddress(nodes=(("a", 1), ("b", 2)), kind="cluster")),
        (
            "redis://u:p@a:1,redis://u:p@b:2",
            RedisAddress(nodes=(("a", 1), ("b", 2)), kind="cluster", username="u", password="p"),
        ),
        ("redis+cluster://a", RedisAddress(nodes=(("a", 6379),), kind="cluster")),
        (
            "mymaster,a:26379,b:26379",
            RedisAddress(nodes=(("a", 26379), ("b", 26379)), kind="sentinel", master="mymaster"),
        ),
        (
            "rediss+sentinel://:p@a,b:5/mymaster/4?sentinel_password=q",
            RedisAddress(
                nodes=(("a", 26379), ("b", 5)),
                kind="sentinel",
                master="mymaster",
                db=4,
                password="p",
                sentinel_password="q",
                tls=True,
            ),
        ),
        (
            "rediss://r?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            RedisAddress(
                nodes=(("r", 6379),),
                tls=True,
                verify=False,
                ca="/ca.pem",
                certificate="/c.pem",
                key="/k.pem",
            ),
        ),
    ],
)
def test_the_forms_that_users_know(text: str, address: RedisAddress) -> None:
    """Those of Envoy's own service, where its environment says the kind, and those of Python's libraries."""
    assert redis_address(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no host"),
        ("http://:secret@r", "begins with http://"),
        ("redis://anne:secret://@r", "begins with another scheme"),
        ("redis://anne:secret@r:x", "port of Redis at r is no number"),
        ("redis://r/secret", "what follows the host is a database's"),
        ("redis:/secret:6379", "must be like redis://host:6379/0"),
        ("redis+sentinel://r:1", "not the name by which they know Redis"),
        ("redis://r?secret=1", "unknown option"),
        ("redis://r?ssl_ca_certs=/secret", "need an address that begins with rediss://"),
        ("unix://secret", "absolute path"),
        ("redis://anne:1,secret@r:6379", "written percent-encoded"),
        ("redis://anne:1,secret,2@r:6379", "written percent-encoded"),
        ("redis://anne:a@secret,b@r:6379", "written percent-encoded"),
        ("redis://secret,@r", "written percent-encoded"),
        ("redis://secret:x,y@r", "written percent-encoded"),
        ("secret,x@r:6379", "written percent-encoded"),
        ("a:x,secret://@r:6379", "begins with another scheme"),
        ("redis://a,secret://b", "written percent-encoded"),
        ("redis+sentinel://anne:1/secret@r:6379/name", "written percent-encoded"),
        ("redis://anne:1?secret@r", "written percent-encoded"),
        ("redis://secret:x?db=1@r", "written percent-encoded"),
        ("redis://secret word", "a character that hosts cannot have"),
    ],
)
def test_what_is_no_address_is_refused_with_the_right_form(text: str, message: str) -> None:
    """The message has nothing that may be a password."""
    with pytest.raises(RedisAddressError, match=message) as error:
        redis_address(text)

    assert "secret" not in str(error.value)


def test_an_address_is_shown_without_its_password() -> None:
    """It is in the log and in the status."""
    address = redis_address("redis+sentinel://anne:secret@a:1,b:2/mymaster?sentinel_password=other")

    assert str(address) == repr(address) == "Redis 'mymaster' of the Sentinels at a:1, b:2"


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """Nothing else than ``RedisAddressError`` comes of it."""
    try:
        address: object = redis_address(text)
    except RedisAddressError as error:
        address = error

    assert str(address)

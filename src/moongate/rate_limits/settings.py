"""What the process of the service is told at its start, on its standard input: one line of JSON."""

from __future__ import annotations

from msgspec import Struct

from moongate.rate_limits.redis_address import RedisAddress


class RedisCertificates(Struct, frozen=True, kw_only=True):
    """PEM that Redis is shown, or checked by; "" is none."""

    certificate: str = ""
    key: str = ""
    ca: str = ""


class Settings(Struct, frozen=True, kw_only=True):
    """How to serve.

    Args:
        socket: the Unix socket on which Envoys ask.
        configuration: the gRPC address at which moongate tells the limits.
        redis: where requests are counted; None in memory.
        certificates: instead of files that the address of Redis names.
    """

    socket: str
    configuration: str
    redis: RedisAddress | None = None
    certificates: RedisCertificates = RedisCertificates()

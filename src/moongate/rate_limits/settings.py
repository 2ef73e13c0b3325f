"""What the process of the service is told at its start, on its standard input, as JSON."""

from __future__ import annotations

from importlib.metadata import version

from msgspec import Struct

from moongate.rate_limits.redis_address import RedisAddress


class Redis(Struct, frozen=True, kw_only=True):
    """A Redis that counts.

    Args:
        address: where it is.
        certificate: what it is shown, as PEM, instead of a file that the address names.
        key: the private key of that.
        ca: what its own certificate is checked by.
    """

    address: RedisAddress
    certificate: str = ""
    key: str = ""
    ca: str = ""

    def __repr__(self) -> str:
        """Without secrets."""
        return str(self.address)


class Settings(Struct, frozen=True, kw_only=True):
    """How to serve.

    Args:
        configuration: the gRPC address at which moongate tells the limits.
        redis: where requests are counted; None in memory.
    """

    configuration: str
    redis: Redis | None = None


def identity(settings: bytes) -> bytes:
    """What tells a running service from one that would be started now: its settings, and its version."""
    return version("moongate").encode() + b" " + settings

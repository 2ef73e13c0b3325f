"""What callers of the Python API hand over, before anything is done with it: a wrong type is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.gateways import LOCALHOST
from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.settings import Redis
from moongate.run.rate_limits import ExternalService
from moongate.translation import configuration as configuration_of


def check(name: str, value: object, kind: type, what: str) -> None:
    """Raise ``TypeError`` if an argument is of another type."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}; it is of type {type(value).__name__}.")


def check_seconds(name: str, value: object) -> None:
    """Raise ``TypeError`` if an argument is neither a number of seconds nor None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{name} must be a number of seconds, or None; it is of type {type(value).__name__}.")


def check_bind(bind: object) -> None:
    """Raise an error if this is not an address to listen on.

    Raises:
        TypeError: it is no string.
        ValueError: it is no address.
    """
    check("bind", bind, str, "an IP address, or 'localhost'")
    if bind == LOCALHOST:
        return
    try:
        ip_address(cast("str", bind))
    except ValueError:
        message = (
            f"The address is {bind!r}; it must be localhost or an IP address without a port, such as "
            "0.0.0.0 for all."
        )
        raise ValueError(message) from None


def path(name: str, value: Path | str | None) -> Path | None:
    """A path that may have been handed over as a string.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, str):
        return Path(value)
    if value is not None:
        check(name, value, Path, "a path")
    return value


def configuration(value: EnvoyGateway | Mapping[str, Any] | None) -> EnvoyGateway | None:
    """A configuration that may have been handed over as a document.

    Raises:
        ConfigurationError: it has faults.
        TypeError: it is neither.
    """
    return value if isinstance(value, EnvoyGateway) else configuration_of(value)


def redis(value: object) -> Redis | None:
    """A Redis that is named by its address.

    Raises:
        RedisAddressError: it is no address.
        TypeError: it is no string.
    """
    if value is None:
        return None
    check("redis", value, str, "the address of a Redis, such as redis://localhost:6379")
    return Redis(address=redis_address(cast("str", value)))


def rate_limit_service(value: object, port: object) -> ExternalService | None:
    """A rate limit service that is named by ``host:port``.

    Raises:
        TypeError: an argument is of another type.
        ValueError: it is no address.
    """
    check("rate_limit_xds_port", port, int, "a port")
    if value is None:
        return None
    check("rate_limit_service", value, str, "HOST:PORT of a rate limit service")
    host, _, its_port = cast("str", value).rpartition(":")
    if not host.strip("[]") or not its_port.isdecimal() or not 0 < int(its_port) < 65536:
        raise ValueError(
            f"The rate limit service is {value!r}; it must be HOST:PORT, such as localhost:8081."
        )
    return ExternalService(address=cast("str", value), configuration_port=cast("int", port))

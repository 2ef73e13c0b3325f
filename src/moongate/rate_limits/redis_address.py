"""Where Redis is: the forms of its address that users of Envoy's rate limit service and of Python know.

``host:port``, ``redis://user:password@host:port/db``, ``rediss://…`` with TLS, ``unix:///run/redis.sock``;
a cluster as ``redis+cluster://host:port,host:port`` or several addresses with commas between them; Sentinel
as ``redis+sentinel://host:port,host:port/name`` or ``name,host:port,host:port``. After ``?`` come options of
TLS as redis-py names them.

An address may contain a password, so no message has more of it than its hosts.
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

PORT: Final = 6379
SENTINEL_PORT: Final = 26379

FORMS: Final = "host:port, redis://, rediss://, unix:///path, redis+cluster:// or redis+sentinel://"


class RedisAddressError(ValueError):
    """Text that is no address of a Redis. The message does not have it, because it may contain a password."""


class RedisAddress(Struct, frozen=True, kw_only=True):
    """Where Redis is, and how to speak with it.

    Args:
        nodes: hosts and ports: of Redis, of some members of the cluster, or of the Sentinels.
        kind: what they are.
        master: the name by which Sentinels know the Redis that writes.
        path: the Unix socket, instead of ``nodes``.
        db: the number of the database.
        username: for Redis.
        password: for Redis; Sentinels are asked with ``sentinel_password``.
        tls: whether to speak TLS.
        verify: whether the certificate of Redis is checked.
        ca: the file with the CAs that it is checked by, instead of the system's.
        certificate: the file with our certificate.
        key: the file with its private key.
    """

    nodes: tuple[tuple[str, int], ...] = ()
    kind: Literal["single", "cluster", "sentinel"] = "single"
    master: str = ""
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    tls: bool = False
    verify: bool = True
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __str__(self) -> str:
        """What to call it in logs: without users and passwords."""
        if self.path:
            return f"Redis at {self.path}"
        hosts = ", ".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.nodes)
        if self.kind == "sentinel":
            return f"Redis {self.master!r} of the Sentinels at {hosts}"
        return f"Redis {'Cluster ' if self.kind == 'cluster' else ''}at {hosts}"

    __repr__ = __str__

    @property
    def files(self) -> tuple[str, ...]:
        """The files that a connection with TLS reads."""
        return tuple(filter(None, (self.ca, self.certificate, self.key)))


class _Part(Struct, frozen=True):
    """One of the addresses between commas."""

    scheme: str
    user: str
    host: str
    port: int | None


_RAW: Final = (
    "The address of Redis has a user or a password where it cannot be read: it stands once, before the first "
    "host, and one of : / @ , ? in it must be written percent-encoded."
)
_HOST: Final = re.compile(r"[\w.%-]+|[0-9A-Fa-f:.]+(%[\w.-]+)?")


def redis_address(text: str) -> RedisAddress:
    """The address that a text says.

    Raises:
        RedisAddressError: it is none.
    """
    text = text.strip()
    if text.startswith("unix://"):
        path, options = _options(text.removeprefix("unix://"))
        return _unix(path, options)
    whole, options = _options(text)
    words = whole.split(",")
    words[-1], slash, path = _without_path(words[-1])
    schemes = [word.strip().rpartition("://")[0].lower() for word in words]
    scheme = next(filter(None, schemes), "redis")
    base, _, kind = scheme.partition("+")
    if base not in ("redis", "rediss") or kind not in ("", "cluster", "sentinel"):
        # What is no name of a scheme may be a password with :// in it.
        is_name = scheme == schemes[0] and scheme.replace("+", "").isalnum()
        begins = f"{scheme}://" if is_name else "another scheme"
        raise RedisAddressError(f"The address of Redis begins with {begins}; it must be one of {FORMS}.")
    user = _before_host(words[0])
    others = [each for each in map(_before_host, words[1:]) if each not in ("", user)]
    if others or "@" in path or {*schemes} - {"", scheme} or _has_user(options):
        raise RedisAddressError(_RAW)
    parts = [_part(word) for word in words]
    master = ""
    if not kind and len(parts) > 1:
        # Envoy's own service is told by the environment which of the two it is.
        first = parts[0]
        kind = "cluster" if first.scheme or first.user or first.port is not None else "sentinel"
        if kind == "sentinel":
            master, parts = first.host, parts[1:]
    elif kind == "sentinel":
        master, _, path = path.partition("/")
    if kind == "sentinel" and not master:
        raise RedisAddressError(
            "The address names Sentinels, and not the name by which they know Redis: "
            "it must be redis+sentinel://host:port,host:port/name."
        )
    username, _, password = user.removesuffix("@").rpartition(":")
    default = SENTINEL_PORT if kind == "sentinel" else PORT
    return _with_options(
        RedisAddress(
            nodes=tuple((part.host, part.port or default) for part in parts),
            kind=kind or "single",  # pyright: ignore[reportArgumentType] - checked above
            master=unquote(master),
            db=_database(path) if slash else 0,
            username=unquote(username),
            password=unquote(password),
            tls=base == "rediss",
        ),
        options,
    )


def _unix(path: str, options: dict[str, str]) -> RedisAddress:
    user, _, file = path.rpartition("@")
    if not file.startswith("/"):
        raise RedisAddressError("The address of a Unix socket must be unix:// and an absolute path.")
    username, _, password = user.rpartition(":")
    address = RedisAddress(path=file, username=unquote(username), password=unquote(password))
    return _with_options(address, options)


def _options(text: str) -> tuple[str, dict[str, str]]:
    head, _, query = text.partition("?")
    return head, dict(parse_qsl(query, keep_blank_values=True))


def _before_host(word: str) -> str:
    """User and password, with the ``@`` behind them; "" if there is none."""
    user, at, _ = word.rpartition("://")[2].rpartition("@")
    return user + at


def _has_user(options: dict[str, str]) -> bool:
    """Whether what looks like options is the end of a password with a question mark."""
    return any("@" in name + ("" if name in _CREDENTIALS[1:] else value) for name, value in options.items())


def _without_path(word: str) -> tuple[str, str, str]:
    scheme, separator, rest = word.rpartition("://")
    rest, slash, path = rest.partition("/")
    return f"{scheme}{separator}{rest}", slash, path


def _part(word: str) -> _Part:
    scheme, _, rest = word.strip().rpartition("://")
    user, _, place = rest.rpartition("@")
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    if not host:
        raise RedisAddressError(f"The address of Redis has no host; it must be one of {FORMS}.")
    if not _HOST.fullmatch(host):
        raise RedisAddressError(
            "A host in the address of Redis has a character that hosts cannot have. If it is one of a user "
            "or a password, it must be written percent-encoded."
        )
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise RedisAddressError(
            f"The port of Redis at {host} is no number from 1 to 65535. If a user or a password contains one "
            "of : / @ , ? it must be written percent-encoded there."
        )
    return _Part(scheme.lower(), user, host, int(port) if port else None)


def _database(path: str) -> int:
    if not path:
        return 0
    if not path.isdecimal():
        raise RedisAddressError(
            "The address of Redis must be like redis://host:6379/0: what follows the host is a database's "
            "number."
        )
    return int(path)


_VERIFY: Final = {"required": True, "none": False}
_KNOWN: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_CREDENTIALS: Final = ("db", "username", "password", "sentinel_username", "sentinel_password")


def _with_options(address: RedisAddress, options: dict[str, str]) -> RedisAddress:
    if not options.keys() <= {*_KNOWN, *_CREDENTIALS}:
        # Without its name: it may be the end of a password with a question mark.
        raise RedisAddressError(
            f"The address of Redis has an unknown option. There are {', '.join((*_KNOWN, *_CREDENTIALS))}."
        )
    if not address.tls and any(name in options for name in _KNOWN):
        raise RedisAddressError("Options of TLS need an address that begins with rediss://.")
    checked = options.get("ssl_cert_reqs", "required")
    if checked not in _VERIFY:
        raise RedisAddressError("ssl_cert_reqs of the address of Redis must be 'required' or 'none'.")
    return RedisAddress(
        nodes=address.nodes,
        kind=address.kind,
        master=address.master,
        path=address.path,
        db=_database(options["db"]) if "db" in options else address.db,
        username=options.get("username", address.username),
        password=options.get("password", address.password),
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
        tls=address.tls,
        verify=_VERIFY[checked],
        ca=options.get("ssl_ca_certs", ""),
        certificate=options.get("ssl_certfile", ""),
        key=options.get("ssl_keyfile", ""),
    )

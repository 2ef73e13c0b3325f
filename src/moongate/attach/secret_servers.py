"""Secrets that stand for secrets of another server, which Envoy asks by itself (SDS).

Such a Secret is of a type of its own and holds no certificate: only the socket of the server, and how the
server calls the secret. It is off unless ``extensionApis.enableSDSSecretRef`` is set.

Source: Envoy Gateway, Secrets of type ``gateway.envoyproxy.io/sds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.api.core import Secret
from moongate.attach.certificates import Fault
from moongate.attach.gateways import config
from moongate.engine import query
from moongate.store import get

if TYPE_CHECKING:
    from moongate.api.base import Ref
    from moongate.engine import Db

SDS_SECRET: Final = "gateway.envoyproxy.io/sds"  # noqa: S105 - the name of a type
_SCHEME: Final = "unix://"
_LONGEST: Final = 107
"""Bytes of the path of a Unix socket."""


class ServedSecret(NamedTuple):
    """A secret of another server.

    Args:
        name: what the server calls it.
        socket: the path of the server's Unix socket.
    """

    name: str
    socket: str


@query
def served_secret(db: Db, ref: Ref) -> ServedSecret | Fault | None:
    """What a Secret stands for; ``None`` if it holds its data itself, or does not exist."""
    secret = get(db, Secret, ref)
    if secret is None or secret.type != SDS_SECRET:
        return None
    if not config(db).extension_apis.enable_sds_secret_ref:
        return Fault(
            f"is of type {SDS_SECRET}, which is disabled; set extensionApis.enableSDSSecretRef in the "
            "configuration."
        )
    name, url = (_text(secret.data.get(key, b"")) for key in ("secretName", "url"))
    socket = url.removeprefix(_SCHEME)
    if not name:
        return Fault("has no secretName: the name of the secret at its server.")
    if not url.startswith(_SCHEME) or not socket.startswith(("/", "./")) or len(socket.encode()) > _LONGEST:
        return Fault(f"has no url of a Unix socket, such as {_SCHEME}/run/secrets/socket.")
    return ServedSecret(name, socket)


def _text(data: bytes) -> str:
    """Data as text without control characters; "" if it is none."""
    text = data.decode(errors="replace").strip()
    return text if text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else ""

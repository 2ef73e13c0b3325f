"""Faults of certificates, keys and lists of users: what is within Secrets, and is never shown."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from tests.campaign.fault import Fault, Reading
from tests.campaign.healthy import CANARY, USERS, in_base64
from tests.core import certificate, key_bytes, new_key

GATEWAY = "Gateway default/gateway"
MEMBERS = "SecurityPolicy default/members"

KEY = new_key()
PEM = certificate(KEY, "secure.test")
KEY_PEM = key_bytes(KEY)
ENCRYPTED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(CANARY.encode()))
SMALL = ec.generate_private_key(ec.SECP192R1())
ODD = ed25519.Ed25519PrivateKey.generate()


def secret(
    crt: bytes | str | None, key: bytes | str | None, kind: str = "kubernetes.io/tls"
) -> dict[str, str]:
    """The file of the certificate, with these parts instead."""
    data = {"tls.crt": crt, "tls.key": key}
    lines = [f"  {name}: {in_base64(value)}\n" for name, value in data.items() if value is not None]
    head = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: certificate}}\ntype: {kind}\n"
    return {"certificate.yaml": f"{head}data:{'' if lines else ' {}'}\n{''.join(lines)}"}


def refused(
    name: str,
    files: dict[str, str],
    value: str,
    right: str,
    *,
    secure: str | int = "ConnectError",
) -> Fault:
    """A row in which the listener that has the certificate says what is wrong with it."""
    reading = Reading(
        at="gateway.yaml:12:29",
        of=GATEWAY,
        field="spec.listeners[1].tls.certificateRefs[0]",
        value=value,
        right=right,
        meanwhile="serves nothing",
    )
    return Fault(name=name, files=files, reads=(reading,), requests={"secure": secure})


def users(name: str, text: str, value: str, right: str) -> Fault:
    """A row in which the policy that has the users says what is wrong with them, and closes its route."""
    reading = Reading(
        at="private.yaml:17:22",
        of=MEMBERS,
        field="spec.basicAuth.users",
        value=value,
        right=right,
        meanwhile="500",
    )
    return Fault(
        name=name,
        files={"users.yaml": USERS.replace('"member:{SHA}@DIGEST@"', text)},
        reads=(reading,),
        requests={"private": 500, "member": 500},
    )


FAULTS = (
    refused(
        "a certificate that has ended is said to",
        secret(certificate(KEY, "secure.test", days=-1), KEY_PEM),
        "has expired",
        "must be renewed",
    ),
    refused(
        "a key of another certificate does not fit", secret(PEM, key_bytes(new_key())), "tls.key", "tls.crt"
    ),
    refused("a certificate that is no PEM is not quoted", secret(CANARY, KEY_PEM), "tls.crt", "PEM"),
    refused("a key that is no PEM is not quoted", secret(PEM, CANARY), "tls.key", "PEM"),
    refused("a key with a password must be without", secret(PEM, ENCRYPTED), "tls.key", "password"),
    refused(
        "a certificate that is empty is missed",
        secret("", KEY_PEM),
        "tls.crt",
        "must hold tls.crt and tls.key",
    ),
    refused("a key that is missing is missed", secret(PEM, None), "tls.key", "must hold tls.crt and tls.key"),
    refused(
        "a certificate that is cut off is not taken",
        secret(PEM[:-60], KEY_PEM),
        "tls.crt",
        "-----BEGIN CERTIFICATE-----",
    ),
    refused(
        "certificate and key that are exchanged are not taken",
        secret(KEY_PEM, PEM),
        "tls.crt",
        "the private key",
    ),
    refused(
        "a chain that begins with its authority does not fit its key",
        secret(certificate(new_key(), "authority") + PEM, KEY_PEM),
        "tls.crt",
        "first",
    ),
    refused(
        "a key on a curve that Envoy does not take is named",
        secret(certificate(SMALL, "secure.test"), key_bytes(SMALL)),
        "secp192r1",
        "P-256",
    ),
    refused(
        "a key of Ed25519 is not taken",
        secret(certificate(ODD, "secure.test"), key_bytes(ODD)),
        "tls.key",
        "ECDSA",
    ),
    refused(
        "a Secret of another type holds no certificate",
        secret(PEM, KEY_PEM, "Opaque"),
        "Opaque",
        "kubernetes.io/tls",
    ),
    users("a user without a digest is not let in", f'"member:{CANARY}"', "Line 1", "{SHA}"),
    users("a digest of bcrypt is not taken", f'"member:$2y$05${CANARY}"', "Line 1", "{SHA}"),
    users(
        "a user that stands twice is not taken",
        '"member:{SHA}@DIGEST@\\nmember:{SHA}@DIGEST@"',
        "Line 2",
        "again",
    ),
    users("no users at all are not taken for all", '""', ".htpasswd", "{SHA}"),
    users("a user without a name is not let in", '":{SHA}@DIGEST@"', "Line 1", "user:{SHA}digest"),
)

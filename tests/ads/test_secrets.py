"""Certificates are sent together, and alone in other bytes if Envoy refuses one of them."""

from __future__ import annotations

from random import Random

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hypothesis import given
from hypothesis import strategies as st

from moongate.ads.secrets import respelled
from moongate.ads.session import Session
from moongate.ads.snapshot import Snapshot
from moongate.xds.wire import SECRET, XdsResource, encode


def test_a_certificate_can_be_written_in_other_bytes_that_mean_the_same() -> None:
    secret = Secret(name="s")
    secret.tls_certificate.certificate_chain.inline_bytes = b"chain"
    secret.tls_certificate.private_key.inline_bytes = b"key"
    resource = XdsResource.of(SECRET, "s", encode(secret))
    other = respelled(resource)

    assert other is not None
    assert (other.type_url, other.name) == (SECRET, "s")
    assert other.version != resource.version
    secret.tls_certificate.certificate_chain.inline_bytes = b"chain\n"
    assert Secret.FromString(other.body) == secret


def test_of_other_secrets_each_byte_counts() -> None:
    token = Secret(name="s")
    token.generic_secret.secret.inline_bytes = b"token"

    assert respelled(XdsResource.of(SECRET, "s", encode(token))) is None
    assert respelled(XdsResource.of(SECRET, "s", b"no message")) is None


NAMES = ("a", "b", "c", "d")
BAD = "bad"
CONTENTS = st.sampled_from(["1", "2", BAD, f"{BAD}2"])


class Envoy:
    """What Envoy does with certificates: it keeps one before it looks at it, and stops at one that is bad."""

    def __init__(self, session: Session, chooser: Random) -> None:
        self.in_force: dict[str, str] = {}
        self._kept: dict[str, bytes] = {}
        self._session = session
        self._chooser = chooser
        session.receive(DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=NAMES), 0)

    def answer(self) -> bool:
        """Take the next response, if there is one."""
        body = self._session.next(0)
        if body is None:
            return False
        response = DeltaDiscoveryResponse.FromString(body)
        request = DeltaDiscoveryRequest(type_url=SECRET, response_nonce=response.nonce)
        secrets = [each.resource.value for each in response.resources]
        self._chooser.shuffle(secrets)
        for secret in secrets:
            name, content = _read(secret)
            if self._kept.get(name) == secret:
                continue
            self._kept[name] = secret
            if content.startswith(BAD):
                request.error_detail.message = "odd"
                break
            self.in_force[name] = content
        self._session.receive(request, 0)
        return True


@given(
    st.lists(st.dictionaries(st.sampled_from(NAMES), CONTENTS, min_size=1) | st.just(None), max_size=12),
    st.randoms(use_true_random=False),
)
def test_each_certificate_is_in_force_or_refused_whatever_comes_together(
    steps: list[dict[str, str] | None], chooser: Random
) -> None:
    """In each step some certificates change, or Envoy answers once; in the end it answers to all."""
    snapshot, wanted = Snapshot(), dict.fromkeys(NAMES, "1")
    session = Session("eg", "envoy-1", snapshot)
    session.touch(snapshot.apply([_certificate(*each) for each in wanted.items()], ()))
    envoy = Envoy(session, chooser)
    for step in steps:
        if step is None:
            envoy.answer()
        else:
            wanted |= step
            session.touch(snapshot.apply([_certificate(*each) for each in step.items()], ()))
    while envoy.answer():
        pass

    assert {refusal.name for refusal in session.rejections()} == {
        name for name, content in wanted.items() if content.startswith(BAD)
    }
    for name, content in wanted.items():
        assert content.startswith(BAD) or envoy.in_force[name] == content


def _certificate(name: str, content: str) -> XdsResource:
    secret = Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = content.encode()
    return XdsResource.of(SECRET, name, encode(secret))


def _read(body: bytes) -> tuple[str, str]:
    """The name and the content of a certificate."""
    secret = Secret.FromString(body)
    return secret.name, secret.tls_certificate.certificate_chain.inline_bytes.decode().strip()

"""Which TLS clients may speak: versions, ciphers, curves, ALPN, session resumption, fingerprints.

Set by:      ClientTrafficPolicy ``spec.tls``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       ``DownstreamTlsContext`` of the filter chain; ``envoy.filters.listener.tls_inspector``
Cases:       client_tls.md beside this file: its reference page and its golden tests

Facts
-----
* listeners without TLS are left alone
* Envoy refuses the whole listener for one unknown name in these lists, so such a policy cannot be built; the
  expressions of ciphers are BoringSSL's (``[A|B]``, ``ALL``, ``!A``, ``A+B``)
* versions 1.2 to 1.3 are pinned by any policy on the TLS listeners that it governs, also one without ``tls``
* client certificates are not checked yet: a policy that asks for it is refused, and like any policy that
  cannot be built it makes the routes of its listeners answer 500, so that nobody passes unchecked
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector

from moongate.api.base import Model, deprecated, not_built_yet
from moongate.api.tls import TLSSettings
from moongate.attach.tls_names import unknown_names
from moongate.engine import Db
from moongate.features.base import ChainEdit, Effective, Feature, tls_parameters
from moongate.problem import Problem


class StatelessTLSSessionResumption(Model, frozen=True, kw_only=True):
    """Resume by session tickets, which the client keeps."""


class StatefulTLSSessionResumption(Model, frozen=True, kw_only=True):
    """Resume by session ids, which Envoy keeps."""


class SessionResumption(Model, frozen=True, kw_only=True):
    """Ways in which a client may skip the full handshake; each is off unless it is set."""

    stateless: StatelessTLSSessionResumption | None = None
    stateful: StatefulTLSSessionResumption | None = None


class Session(Model, frozen=True, kw_only=True):
    """TLS sessions."""

    resumption: SessionResumption | None = None


class ClientTLSSettings(TLSSettings, frozen=True, kw_only=True):
    """Which TLS clients may speak; h2 and http/1.1 when ``alpnProtocols`` is not set."""

    client_validation: (
        Annotated[
            Any,
            not_built_yet("routes on its listeners answer 500, so that nobody passes unchecked"),
            deprecated("mode", "optional", only_if_true=True),
        ]
        | None
    ) = None
    session: Session | None = None


def check(db: Db, tls: Effective[ClientTLSSettings]) -> Iterator[Problem]:
    """Names that Envoy does not know, and client certificates, which are not checked yet."""
    spec = tls.value
    if spec.client_validation is not None:
        yield Problem(
            "clientValidation",
            "Client certificates are not checked yet; until they are, the routes of this policy's listeners "
            "answer 500, so that nobody passes without one.",
        )
    yield from unknown_names(spec)


def _filter_chain(edit: ChainEdit, tls: Effective[ClientTLSSettings]) -> None:
    if edit.tls is None:
        return
    spec, common = tls.value, edit.tls.common_tls_context
    common.tls_params.CopyFrom(tls_parameters(spec))
    if spec.alpn_protocols is not None:
        common.alpn_protocols[:] = spec.alpn_protocols
    resumption = (spec.session and spec.session.resumption) or SessionResumption()
    if resumption.stateless is not None:
        edit.tls.ClearField("disable_stateless_session_resumption")
    else:
        edit.tls.disable_stateless_session_resumption = True
    edit.tls.disable_stateful_session_resumption = resumption.stateful is None
    if spec.fingerprints:
        inspector = edit.inspector = edit.inspector or TlsInspector()
        if "JA3" in spec.fingerprints:
            inspector.enable_ja3_fingerprinting.value = True
        if "JA4" in spec.fingerprints:
            inspector.enable_ja4_fingerprinting.value = True


FEATURE = Feature(
    kind="ClientTrafficPolicy", field="tls", model=ClientTLSSettings, check=check, filter_chain=_filter_chain
)

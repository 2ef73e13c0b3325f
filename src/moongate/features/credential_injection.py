"""Give backends a credential with each request, such as a token, that no client sees.

Set by:      HTTPRouteFilter ``credentialInjection``, named by a rule or by one of its backendRefs
Precedence:  no policy has such a field; several filters of a rule each give theirs
Envoy:       ``envoy.filters.http.credential_injector``, with the credential as a secret that Envoy fetches
Cases:       credential_injection.md beside this file: its reference page and its golden tests

Facts
=====
* the credential is no part of a route, listener or cluster, so a changed one changes none of them
* routes can only switch the filter on. With stable chains it stands in the clusters of the rule instead,
  where copies of requests (mirrors) do not get the credential
* of a backendRef, it always stands in the cluster
* Envoy refuses (401) to send a request without the credential

Source: the reference's shape and names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from envoy.extensions.filters.http.credential_injector.v3.credential_injector_pb2 import CredentialInjector
from envoy.extensions.http.injected_credentials.generic.v3.generic_pb2 import Generic
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from google.protobuf.any_pb2 import Any as AnyMessage

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.api.httproutefilter import HTTPCredentialInjectionFilter
from moongate.attach.extension_filters import CREDENTIAL_KEY
from moongate.features.base import ExtraSecret, Feature, HttpFilter, Native
from moongate.features.shared import over_ads
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.attach.extension_filters import Extension
    from moongate.engine import Db
    from moongate.features.base import Effective


def extends(extension: Extension) -> HTTPCredentialInjectionFilter | None:
    return extension.credential


def secrets(_db: Db, injection: Effective[HTTPCredentialInjectionFilter]) -> Iterator[ExtraSecret]:
    """The credential, under a name of the filter and of the Secret.

    Envoy has a new value before it has new clusters. So another Secret has another name: else the former
    backends of a filter would get the credential that is for the next ones.
    """
    yield ExtraSecret(_name(injection), _holder(injection), CREDENTIAL_KEY)


def _holder(injection: Effective[HTTPCredentialInjectionFilter]) -> Ref:
    named = injection.value.credential.value_ref
    return Ref.of(Secret, named.namespace or injection.owner.namespace, named.name)


def _name(injection: Effective[HTTPCredentialInjectionFilter]) -> str:
    owner, holder = injection.owner, _holder(injection)
    of = f"{owner.kind.lower()}/{owner.namespace}/{owner.name}"
    return f"credential_injector/credential/{of}/{holder.namespace}/{holder.name}"


def _chain(_db: Db, injection: Effective[HTTPCredentialInjectionFilter]) -> CredentialInjector:
    spec = injection.value
    generic = Generic(
        credential=SdsSecretConfig(name=_name(injection), sds_config=over_ads()),
        header=spec.header or "",
    )
    return CredentialInjector(
        overwrite=bool(spec.overwrite),
        credential=TypedExtensionConfig(
            name="envoy.http.injected_credentials.generic", typed_config=packed(generic)
        ),
    )


def _route(_db: Db, _injection: Effective[HTTPCredentialInjectionFilter]) -> FilterConfig:
    return FilterConfig(config=AnyMessage())


FEATURE = Feature(
    model=HTTPCredentialInjectionFilter,
    native=Native(extends=extends),
    secrets=secrets,
    http_filter=HttpFilter(
        name="envoy.filters.http.credential_injector",
        per_policy=True,
        disabled=True,
        chain=_chain,
        route=_route,
        of_clusters=True,
    ),
)

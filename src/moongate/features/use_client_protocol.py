"""Speak to backends what the client speaks: HTTP/1.1 or HTTP/2.

Set by:      BackendTrafficPolicy ``spec.useClientProtocol``
Precedence:  the most specific policy wins; it goes before what a backend says about its protocol
Envoy:       ``HttpProtocolOptions.use_downstream_protocol_config``
Cases:       use_client_protocol.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from moongate.features.base import ClusterEdit, Effective, Feature


def cluster(edit: ClusterEdit, uses: Effective[bool]) -> None:
    if uses.value:
        edit.http.use_downstream_protocol_config.http_protocol_options.SetInParent()


FEATURE = Feature(kind="BackendTrafficPolicy", field="use_client_protocol", model=bool, cluster=cluster)

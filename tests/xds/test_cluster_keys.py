"""What clusters need besides themselves, by name."""

from __future__ import annotations

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.xds.cluster_keys import CertificateSecret
from moongate.xds.secrets import secret
from tests.core import EG_FLEET, Core, tls_secret


def test_a_certificate_for_backends_has_the_name_that_it_has_for_clients() -> None:
    """One Secret may be shown to both, and is sent once."""
    ref = Ref.of(Secret, "default", "cert")
    core = Core(tls_secret("cert", "x.io"))

    assert CertificateSecret(EG_FLEET, ref).name == secret(core.db, EG_FLEET, ref).name

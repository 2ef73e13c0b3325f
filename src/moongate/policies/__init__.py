"""The policy kinds, put together from their features: the table of all of them.

``effective`` says what holds where several policies apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import SecurityPolicy

if TYPE_CHECKING:
    from moongate.attach.policies import Policy

POLICY_KINDS: Final[tuple[type[Policy], ...]] = (ClientTrafficPolicy, BackendTrafficPolicy, SecurityPolicy)

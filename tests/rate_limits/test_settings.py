from __future__ import annotations

from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.settings import Redis, Settings


def test_settings_are_shown_without_secrets() -> None:
    """They may stand in a message about a bug."""
    redis = Redis(address=redis_address("redis://:secret@r"), key="secret")
    settings = Settings(configuration="unix:/run/c", redis=redis)

    assert "secret" not in repr(settings)
    assert "Redis at r:6379" in repr(settings)

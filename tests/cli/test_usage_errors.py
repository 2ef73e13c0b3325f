from __future__ import annotations

from moongate.cli.usage_errors import USAGE, UsageError


def test_a_mistake_is_bad_usage_unless_said_otherwise() -> None:
    mistake = UsageError("The port is 0; it must be one of 1 to 65535.")

    assert mistake.code == USAGE
    assert str(mistake) == mistake.message

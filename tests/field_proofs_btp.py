"""Fields of a BackendTrafficPolicy of which no client and no backend of the tests can see anything."""

from __future__ import annotations

from typing import Final

UNSEEN: Final[dict[str, tuple[str, str]]] = {}
"""Field → why, and the test of its xDS; ``path.*`` stands for all below it."""

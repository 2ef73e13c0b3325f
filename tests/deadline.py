"""The deadline of what a test waits for."""

from __future__ import annotations

from typing import Final

DEADLINE_S: Final = 60.0
"""Seconds after which a test ends that hangs. It claims nothing: a machine that others use may be slow."""

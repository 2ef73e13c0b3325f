"""Finding the one entry that Envoy refuses in a resource of thousands, and taking it alone out of force.

``quarantine`` takes what Envoys answer, and ``answers`` keeps that for each of them as far as they differ.
``search`` finds who is at fault, ``likeness`` who is for the same settings, and ``waiting`` has the order in
which suspects are tried.
"""

from __future__ import annotations

from moongate.quarantine.quarantine import Quarantine, Refusal

__all__ = ["Quarantine", "Refusal"]

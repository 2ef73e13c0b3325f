"""Connects all parts of moongate. ``Laptop`` is a gateway that runs in this process.

Theory of operation
===================
Batches of resources come in from files, or from ``Laptop.apply``. Changes of xDS resources go out to the ADS
server, and one Envoy runs for each fleet. Between the two is the *pump* (``pump.py``): it settles the world
in slices of a few milliseconds and hands out the changes. The answers of the Envoys come back: they become
part of the statuses, and a route that Envoy refuses goes into quarantine.

``standalone.py`` is the part of ``moongate run`` that uses a ``Laptop``: it serves until a signal comes.
"""

from moongate.run.laptop import Laptop, ManifestError
from moongate.run.standalone import LaptopOptions, run_laptop

__all__ = ["Laptop", "LaptopOptions", "ManifestError", "run_laptop"]

"""Figures of moongate on this machine: ``make bench``, or ``python -m bench``. Not part of the wheel."""

"""Kubernetes' quantities, such as 250m and 8Gi, as numbers."""

import re

UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)}
WRITTEN = re.compile(r"(?P<number>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<unit>[numkMGTPE]?i?|Ki)")


def amount(quantity: str) -> float:
    """A quantity's value. Raises ValueError for what is none."""
    written = WRITTEN.fullmatch(str(quantity).strip())
    if written is None or written["unit"] not in UNITS:
        raise ValueError(f"{quantity} is no quantity")
    return float(written["number"]) * UNITS[written["unit"]]

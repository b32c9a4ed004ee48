"""Every benchmark, in the order in which `make bench` runs them."""

from .benchmark import Benchmark
from .load.benchmark import LOAD

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (LOAD,)}

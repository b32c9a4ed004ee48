"""Every benchmark, in the order in which `make bench` runs them."""

from .api.benchmarks import ACCEPT, STATUS
from .benchmark import Benchmark
from .load.benchmark import LOAD

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (LOAD, ACCEPT, STATUS)}

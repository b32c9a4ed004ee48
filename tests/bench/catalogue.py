"""Every benchmark, in the order in which `make bench` runs them."""

from .api.benchmarks import ACCEPT, STATUS
from .benchmark import Benchmark
from .cluster.backfill import BACKFILL
from .cluster.burst import BURST
from .cluster.idle import IDLE
from .cluster.install import INSTALL
from .cluster.start import GROWN, START
from .load.benchmark import LOAD
from .local.benchmark import LOCAL

BENCHMARKS: dict[str, Benchmark] = {
    one.name: one for one in (LOAD, ACCEPT, STATUS, START, BURST, BACKFILL, GROWN, IDLE, INSTALL, LOCAL)
}

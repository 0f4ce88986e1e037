"""Benchmarks: one command each, a peer beside us in the same process, results kept as json in bench/results/.

All but `bench.gpu` are of a CPU, whatever else the machine has.
"""

import os

os.environ.setdefault("TUNEWISE_DEVICE", "cpu")

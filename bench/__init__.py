"""Benchmarks: one command each, a peer beside us in the same process, results kept as json in bench/results/."""

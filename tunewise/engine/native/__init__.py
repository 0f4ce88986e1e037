"""Kernels written in C++, built on first use where there is a compiler; without one the engine does without them."""

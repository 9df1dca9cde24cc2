"""Benchmarks: each prints one JSON line a figure, with its bar, and exits 1 below one."""

"""Suites of `scripts/benchmark.py`, one file each: medians and ratios. Never a test."""

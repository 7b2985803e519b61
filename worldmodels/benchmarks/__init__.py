"""What `scripts/benchmark.py` measures, a file a suite: medians and ratios. Never a test."""

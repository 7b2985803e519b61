"""What `scripts/benchmark.py` measures, a file a suite: medians, never a test."""

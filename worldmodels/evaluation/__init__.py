"""Scores: held-out episodes, baselines, model errors, comparisons, sweeps, the oracle. Nothing here learns."""

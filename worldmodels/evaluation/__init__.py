"""Scores: held-out episodes, baselines, model errors, comparisons, sweeps, simulator searches. Nothing here learns."""

"""Scores: held-out episodes, baselines, model errors, comparisons, sweeps, searches on the simulator. Nothing here learns."""

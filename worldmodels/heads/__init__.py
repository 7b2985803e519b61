"""Scalars read off features and trained on recorded rows: the contract in base.py, one file a file of configs/heads."""

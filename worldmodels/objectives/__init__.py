"""Representation objectives: one contract (base.py), one file an objective."""

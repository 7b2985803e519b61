"""Planners: base.py is the contract, one file a planner that people name, folders for what they share."""

"""What consumes a world model: one contract (base.py), one file a planner."""

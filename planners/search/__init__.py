"""Shared parts of planners that search: shooting, proposals, receding horizon, memory budget. No learner.

Guided, which `planner=tdmpc` and `*_actor_critic` name, lives here: a search beside a learner's policy and value. CEM,
MPPI and gradient search are files above.
"""

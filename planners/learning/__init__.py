"""Shared parts of planners that learn: policies, critics, returns, hindsight, the learner's contract. No search.

Learners themselves, such as DreamerV3's and TD-MPC2's, are files above. Guided, which `planner=tdmpc` and
`*_actor_critic` name, is in search/.
"""

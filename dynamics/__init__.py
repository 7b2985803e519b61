"""Backbones and their contract: how latents follow from actions and observations.

Encoders, heads and losses of other parts are in worldmodels/, whatever chooses actions in planners/.

base.py is the contract, latent.py the stochastic latent around any core, goal.py a goal beside a latent, and each other
file a core, a backbone or what cores share.
"""

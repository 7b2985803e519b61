"""Latent dynamics: base.py is the contract, latent.py the stochastic latent around any core, one file a core."""

"""Latent dynamics backbones: one contract (base.py), one file a backbone."""

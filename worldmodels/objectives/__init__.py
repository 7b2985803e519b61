"""Objectives, which shape a latent: the contract (base.py), one file each. Numbers read off a latent are heads."""

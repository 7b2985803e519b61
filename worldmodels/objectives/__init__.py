"""What shapes a latent: one contract (base.py), one file an objective. Numbers read off a latent are heads."""

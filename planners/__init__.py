"""Planners and their contract (base.py), one file a planner that people name. Worlds and training are elsewhere.

Folders hold what they share and the planners made of it: search/, learning/, diffusion/. World models, environments and
the training loop are in worldmodels/ and dynamics/.
"""

"""The contract of backbones as tests, for people who write one; needs pytest."""

from worldmodels.testing.contract import DynamicsContract

__all__ = ["DynamicsContract"]

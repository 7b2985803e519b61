"""Latent world models: learn one from pixels, plan with it, watch it imagine.

Here are the model around a backbone, its data, environments, training and evaluation. Backbones themselves are in
dynamics/, what chooses actions in planners/.
"""

from __future__ import annotations

from typing import Any

import worldmodels.envs  # noqa: F401 - registers worldmodels/DMC-v0 and others with Gymnasium

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: environment workers import this package too."""
    if name == "load_run":
        from worldmodels.runs.loading import load_run

        return load_run
    raise AttributeError(f"module 'worldmodels' has no attribute {name!r}")

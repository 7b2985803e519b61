"""Latent world models: learn one from pixels, plan with it, watch it imagine."""

from __future__ import annotations

from typing import Any

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for: environment workers import this package too."""
    if name == "load_run":
        from worldmodels.runs.loading import load_run

        return load_run
    raise AttributeError(f"module 'worldmodels' has no attribute {name!r}")

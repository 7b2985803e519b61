"""Contract of backbones as tests, for people who write one. Needs pytest."""

import pytest

pytest.register_assert_rewrite(
    *(f"worldmodels.testing.{name}" for name in ("paths", "isolation", "learning", "sequences"))
)

from worldmodels.testing.contract import DynamicsContract  # noqa: E402

__all__ = ["DynamicsContract"]

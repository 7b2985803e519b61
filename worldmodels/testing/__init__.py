"""The contract of backbones as tests, for people who write one; needs pytest."""

import pytest

pytest.register_assert_rewrite("worldmodels.testing.contract", "worldmodels.testing.sequences")

from worldmodels.testing.contract import DynamicsContract  # noqa: E402

__all__ = ["DynamicsContract"]

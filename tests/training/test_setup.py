"""What a training is told about itself before it begins."""

from __future__ import annotations

import logging

import pytest

from worldmodels.config import load_config
from worldmodels.training.setup import warn_untrained_window


@pytest.mark.parametrize(
    ("words", "longest", "prefix", "said"),
    [
        (["dynamics=transformer"], 64, 0, "sees 64 steps back when it acts, and at most 32"),
        (["dynamics=transformer"], 32, 0, ""),
        (["dynamics=transformer", "data.context=burn_in"], 40, 8, ""),
        (["dynamics=transformer", "data.context=latent"], 64, 1, ""),
        ([], None, 0, ""),
    ],
)
def test_a_window_that_was_never_trained_is_told(caplog, words, longest, prefix, said):
    assert load_config(["dynamics=transformer"]).dynamics.core.window == 32
    with caplog.at_level(logging.WARNING):
        warn_untrained_window(load_config(words), longest, prefix)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)

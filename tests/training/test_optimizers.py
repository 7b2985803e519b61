"""Every optimiser that can be chosen by a word."""

from __future__ import annotations

import io

import pytest
import torch
from places import CONFIGS
from torch import nn

from worldmodels.config import load_config
from worldmodels.factory import construct
from worldmodels.nets.layers import tensors_of

OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_learns_and_its_state_is_plain(name):
    cfg = load_config([f"optimizer={name}", "optimizer.lr=1e-2"]).optimizer
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1), torch.randn(8, 3)
    optimizer, clip = construct(cfg.build, params=net.parameters(), lr=cfg.lr), construct(cfg.clip)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(net(x).square().mean())
        losses[-1].backward()
        clip(tensors_of(net))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)  # a checkpoint of plain containers, or resuming would refuse it

"""Actions made of several choices: each is a distribution of its own, and together they are one action."""

from __future__ import annotations

import pytest
import torch

from planners.learning.policies import PolicyNetwork
from planners.search.proposals import CategoricalProposal
from worldmodels.nets.choices import each, indices, likeliest, sizes_of

SIZES = (2, 3)


def test_sizes_of_every_kind_of_action():
    assert sizes_of(4, False) == ()
    assert sizes_of(4, True) == (4,)
    assert sizes_of(5, SIZES) == SIZES


def test_choices_are_split_and_put_side_by_side():
    score = torch.tensor([[0.1, 0.9, 3.0, 2.0, 5.0], [0.2, 0.1, 9.0, 2.0, 5.0]])
    assert likeliest(score, SIZES).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert indices(score, SIZES).tolist() == [[1, 2], [0, 0]]
    assert indices(score, (5,)).tolist() == [4, 2]
    torch.testing.assert_close(each(lambda part: part.softmax(-1), SIZES, score).sum(-1), torch.full((2,), 2.0))
    with pytest.raises(RuntimeError):
        likeliest(score, (2, 2))


def test_a_policys_choices_are_drawn_by_themselves():
    torch.manual_seed(0)
    policy = PolicyNetwork(3, 5, SIZES, units=8, layers=1, unimix=0.0)
    with torch.no_grad():
        policy.out["logits"].weight.normal_(std=2.0)
    actions = policy(torch.ones(20_000, 3))
    drawn = actions.draw(torch.randn(20_000, 5))
    probs = actions.log_probs[0].exp()
    torch.testing.assert_close(drawn.mean(0), probs, atol=0.02, rtol=0)
    first, second = drawn.split(SIZES, -1)
    together = torch.einsum("na,nb->ab", first, second) / len(drawn)
    torch.testing.assert_close(together, torch.outer(probs[:2], probs[2:]), atol=0.02, rtol=0)
    # The log-probability of the pair, and the entropy of the product.
    expected = torch.log((drawn[:5].split(SIZES, -1)[0] @ probs[:2]) * (drawn[:5].split(SIZES, -1)[1] @ probs[2:]))
    torch.testing.assert_close(actions.log_prob(drawn)[:5], expected)
    product = torch.outer(probs[:2], probs[2:])
    torch.testing.assert_close(actions.entropy(drawn)[0], -(product * product.log()).sum())
    assert actions.mode()[0].sum() == 2


def test_a_search_keeps_every_choice_open():
    """Nothing falls below ``min_prob`` of its own choice, however sure the elites are of it."""
    family = CategoricalProposal(SIZES, 0.1)
    elites = likeliest(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]), SIZES).expand(1, 4, 1, 5)
    fitted = family.fit(elites, torch.full((1, 4), 0.25))
    assert family.mode(fitted.mean).tolist() == [[[0, 1, 0, 0, 1]]]
    noise = torch.randn(1, 50_000, 5, generator=torch.Generator().manual_seed(0))
    drawn = family.draw(fitted.mean, fitted.spread, noise).mean(1).squeeze()
    torch.testing.assert_close(drawn, torch.tensor([0.1, 0.9, 0.1, 0.1, 0.8]), atol=0.01, rtol=0)
    torch.testing.assert_close(family.unknown(torch.zeros(5)), torch.tensor([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3]))

"""Gradients of weights that a loop uses at every step, taken once for all steps.

Autograd makes a product, a sum over rows and an addition of each step's. Kept until the backward pass has left the
loop, the inputs and gradients of T steps are one product of T times the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldmodels.nets.blocks import added_product, block_gradient, block_product
from worldmodels.nets.norms import rms, unit

Gradient = Callable[[Tensor, Tensor, Sequence[Any]], Tensor]
"""Of a weight, from inputs and gradients of outputs of all steps, and the arguments of one."""


@contextmanager
def weights_at_once(module: nn.Module, first: Tensor) -> Iterator[Tensor]:
    """Defer the gradients of a module's weights within the block, a loop that begins with what is handed out.

    That is ``first``, which the backward pass reaches after all steps. :data:`RULES` has the operators whose weights
    are deferred, others have theirs as ever. The compiler and loops without gradients need none of it.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not weights:
        yield first
        return
    uses = _Uses()
    begun = _Collect.apply(uses, first, *weights)
    with uses:
        yield begun


@dataclass(frozen=True)
class _Rule:
    """Place of an operator's input, and the gradients of weights by theirs."""

    input: int
    gradients: dict[int, Gradient]
    narrowed: bool = True
    """Whether autocast narrows what it is given."""


RULES: dict[Any, _Rule] = {
    F.linear: _Rule(0, {1: lambda x, grad, _: grad.mT @ x, 2: lambda x, grad, _: grad.sum(0)}),
    added_product: _Rule(1, {2: lambda x, grad, _: grad.mT @ x}),
    block_product: _Rule(
        1, {0: lambda x, grad, _: grad.sum(0), 2: lambda x, grad, args: block_gradient(x, grad, args[2])}
    ),
    rms: _Rule(0, {1: lambda x, grad, args: args[3] * (unit(x, args[2])[0] * grad).sum(0)}, narrowed=False),
}
"""Of operators on rows [N, ...]. What a block product adds may be a bias."""


@dataclass
class _Use:
    """One operator with its weights: what its steps were given and passed back, the last step first."""

    rule: _Rule
    args: Sequence[Any]
    weights: dict[int, nn.Parameter]
    inputs: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)

    def keep(self, x: Tensor, grad: Tensor) -> None:
        self.inputs.append(x)
        self.grads.append(grad)

    def gradients(self) -> dict[int, Tensor]:
        """Return the gradient of each weight, by its id, and forget what it followed from."""
        if not self.grads:
            return {}
        grad = torch.cat(self.grads)
        x = torch.cat(self.inputs).to(grad.dtype)
        self.inputs, self.grads = [], []
        return {id(weight): self.rule.gradients[place](x, grad, self.args) for place, weight in self.weights.items()}


class _Uses(TorchFunctionMode):
    """Hands operators their weights without gradients, and keeps what these follow from."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[tuple[int, ...], _Use] = {}
        self.fixed: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func)
        if rule is None or kwargs or not args[rule.input].requires_grad:
            return func(*args, **(kwargs or {}))
        owners = {place: _owner(args[place]) for place in rule.gradients if place < len(args)}
        weights = {place: owner for place, owner in owners.items() if owner is not None}
        if not weights:
            return func(*args)
        x = args[rule.input].detach()
        args = [self._fix(arg, rule) if place in weights else arg for place, arg in enumerate(args)]
        use = self.uses.setdefault(tuple(map(id, weights.values())), _Use(rule, args, weights))
        out = func(*args)
        out.register_hook(lambda grad: use.keep(x, grad))
        return out

    def _fix(self, weight: Tensor, rule: _Rule) -> Tensor:
        """Return a weight without its gradient, and as narrow as autocast asks for, once for all steps."""
        kind = weight.device.type
        if not (rule.narrowed and torch.is_autocast_enabled(kind)) or weight._is_view():
            return weight.detach()
        if id(weight) not in self.fixed:
            self.fixed[id(weight)] = weight.detach().to(torch.get_autocast_dtype(kind))
        return self.fixed[id(weight)]


def _owner(weight: Tensor | None) -> nn.Parameter | None:
    """Return the parameter that a weight is, or is seen from."""
    owner = weight._base if weight is not None and weight._is_view() else weight
    return owner if isinstance(owner, nn.Parameter) and owner.requires_grad else None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, uses: _Uses, first: Tensor, *weights: Tensor) -> Tensor:
        ctx.uses, ctx.weights = uses, weights
        ctx.set_materialize_grads(False)
        return first.view_as(first)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        found: dict[int, Tensor] = {}
        for use in ctx.uses.uses.values():
            for key, gradient in use.gradients().items():
                found[key] = found[key] + gradient if key in found else gradient
        gradients = (found.get(id(weight)) for weight in ctx.weights)
        return None, grad, *(g if g is None else g.to(w.dtype) for g, w in zip(gradients, ctx.weights, strict=True))

"""Gradients of weights that a loop uses at every step, taken once for all steps.

Autograd makes a product, a sum over rows and an addition of each step's. Kept until the backward pass has left the
loop, the inputs and gradients of T steps are one product of T times the rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Gradient = Callable[[Tensor, Tensor, Sequence[Any]], Tensor]
"""Of a weight, from inputs and gradients of outputs of all steps, and the arguments of one."""


@dataclass(frozen=True)
class Rule:
    """Place of an operator's input [N, ...] among its arguments, and the gradients of weights by theirs."""

    input: int
    gradients: dict[int, Gradient]
    narrowed: bool = True
    """Whether autocast narrows what it is given."""


def deferrable(rule: Rule) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Let an operator's weights be deferred within :func:`weights_at_once`. Elsewhere it is what it was."""

    def wrap(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(operator)
        def call(*args: Any) -> Tensor:
            uses = None if torch.compiler.is_compiling() else _ACTIVE.get()
            return operator(*args) if uses is None else uses.call(operator, rule, args)

        return call

    return wrap


@contextmanager
def weights_at_once(module: nn.Module, first: Tensor) -> Iterator[Tensor]:
    """Defer the gradients of a module's weights within the block, a loop that begins with what is handed out.

    That is ``first``, which the backward pass reaches after all steps. Only operators that are :func:`deferrable` defer
    theirs. The compiler and loops without gradients need none of it.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not weights:
        yield first
        return
    uses = _Uses()
    begun = _Collect.apply(uses, first, *weights)
    before = _ACTIVE.set(uses)
    try:
        yield begun
    finally:
        _ACTIVE.reset(before)


@dataclass
class _Use:
    """One operator with its weights: what its steps were given and passed back, the last step first."""

    rule: Rule
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
        grad = torch.cat(self.grads).flatten(0, -2)
        x = torch.cat(self.inputs).flatten(0, -2).to(grad.dtype)
        self.inputs, self.grads = [], []
        return {id(weight): self.rule.gradients[place](x, grad, self.args) for place, weight in self.weights.items()}


@dataclass
class _Uses:
    """Hands operators their weights without gradients, and keeps what these follow from."""

    uses: dict[tuple[int, ...], _Use] = field(default_factory=dict)
    fixed: dict[int, Tensor] = field(default_factory=dict)

    def call(self, operator: Callable[..., Tensor], rule: Rule, args: Sequence[Any]) -> Tensor:
        if not args[rule.input].requires_grad:
            return operator(*args)
        owners = {place: _owner(args[place]) for place in rule.gradients}
        weights = {place: owner for place, owner in owners.items() if owner is not None}
        if not weights:
            return operator(*args)
        x = args[rule.input].detach()
        args = [self._fix(arg, rule) if place in weights else arg for place, arg in enumerate(args)]
        key = tuple(map(id, weights.values()))
        if key not in self.uses:  # nothing of the graph is kept, which holds this: no collector sees that circle
            given = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
            self.uses[key] = _Use(rule, given, weights)
        use, out = self.uses[key], operator(*args)
        out.register_hook(lambda grad: use.keep(x, grad))
        return out

    def _fix(self, weight: Tensor, rule: Rule) -> Tensor:
        """Return a weight without its gradient, and as narrow as autocast asks for, once for all steps."""
        if id(weight) in self.fixed:
            return self.fixed[id(weight)]
        kind, fixed = weight.device.type, weight.detach()
        if weight._is_view():
            return fixed
        if rule.narrowed and torch.is_autocast_enabled(kind):
            fixed = fixed.to(torch.get_autocast_dtype(kind))
        self.fixed[id(weight)] = fixed
        return fixed


_ACTIVE: ContextVar[_Uses | None] = ContextVar("deferred", default=None)


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

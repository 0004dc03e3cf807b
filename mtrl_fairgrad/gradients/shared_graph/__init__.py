"""One shared graph: K task losses of one forward pass, combined into `.grad`, for anyone's own
training loop.

`backward(losses, method, shared=...)` takes the place of `sum(losses).backward()`; `Accumulator`
does so for several micro-batches before one optimiser step.

Gradients are combined in the units of the losses as given, because a direction need not be linear
in them: a `GradScaler` scales the backward passes and what is written, nothing between. With
several processes each one combines the gradients of the mean loss over all, and so comes to the
same answer. `.grad` is written last: what is refused leaves it as it was.
"""

from mtrl_fairgrad.gradients.shared_graph.backward import Accumulator, backward

__all__ = ["Accumulator", "backward"]

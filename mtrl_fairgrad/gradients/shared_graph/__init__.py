"""One shared graph: combine K task losses of one forward pass into `.grad` in any training loop.

`backward(losses, method, shared=...)` replaces `sum(losses).backward()`; `Accumulator` does so for
several micro-batches before one optimiser step.

Gradients are combined in the units of the given losses, because a direction is not always linear in
them: a `GradScaler` scales the backward passes and the written gradients, nothing in between. Each
of several processes combines the gradients of the mean loss over all processes, so that all get the
same result. `.grad` is written last: it does not change if an error is raised.
"""

from mtrl_fairgrad.gradients.shared_graph.backward import Accumulator, backward

__all__ = ["Accumulator", "backward"]

"""How task gradients are obtained: per task by `torch.func`, or of losses of one graph."""

"""A recorder for the CPU: operations are noted while they are captured, undone, and replayed."""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Section(TorchDispatchMode):
    """Does operations, notes them, and keeps what was where they write."""

    def __init__(self, kept):
        super().__init__()
        self.calls, self.kept = [], kept

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in tensors_of((args, kwargs)):
                storage = tensor.untyped_storage()
                self.kept.setdefault(storage.data_ptr(), (storage, storage.clone()))
        results = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, results))
        return results

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, results in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tensors_of(results), tensors_of(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class StandIn:
    """A recorder of what the CPU is asked to do; as a GPU does, it does nothing of it at first.

    `log` gets the words begin, end, wait, restored.
    """

    def __init__(self, log=None):
        self.log = [] if log is None else log
        self.section = None

    @contextmanager
    def session(self):
        kept = self.kept = {}
        try:
            yield
        except BaseException:
            if self.section is not None:
                self.section.__exit__(None, None, None)
            self.section = None
            self.log.append("restored")
            raise
        finally:
            for storage, before in kept.values():
                storage.copy_(before)

    def begin(self):
        self.log.append("begin")
        self.section = Section(self.kept)
        self.section.__enter__()

    def end(self):
        self.log.append("end")
        section, self.section = self.section, None
        section.__exit__(None, None, None)
        return section.replay

    def host_like(self, tensor):
        return torch.empty_like(tensor, device="cpu")

    def wait(self):
        self.log.append("wait")

"""Run the Python blocks of pages: `python -m tests.support.page_code PAGE...`.

The blocks of a page run one after the other in one namespace that begins with `SET_UP`, each with
fresh losses; its `pycon` blocks print what they show. Prints a JSON object, page -> error or null.
"""

import contextlib
import doctest
import io
import json
import os
import socket
import sys
import traceback
from pathlib import Path

import torch

from tests.support.pages import code

torch.set_num_threads(1)

SET_UP = """
import torch
torch.manual_seed(0)
encoder, heads = torch.nn.Linear(4, 5), torch.nn.ModuleList(torch.nn.Linear(5, 1) for _ in range(3))
optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
criterion = torch.nn.functional.mse_loss
loader = [[(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(3)] for _ in range(4)]
gramian = torch.eye(3)
"""
LOSSES = """
losses = [(head(encoder(torch.ones(2, 4)).tanh()) - 1).square().mean() for head in heads]
"""


GROUP = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def like_torchrun() -> None:
    """Set the environment that `torchrun` gives to a group of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(GROUP, MASTER_PORT=str(port))


def run_blocks(page: Path) -> None:
    if "torchrun" in page.read_text():
        like_torchrun()
    given: dict[str, object] = {}
    exec(SET_UP, given)
    namespace = {**given, "__name__": "page"}
    for number, block in enumerate(code(page, "python")):
        exec(LOSSES, given)
        namespace["losses"] = given["losses"]
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in GROUP:
        os.environ.pop(name, None)


def run_examples(page: Path) -> None:
    examples = "\n".join(code(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    report: list[str] = []
    if doctest.DocTestRunner().run(test, out=report.append).failed:
        raise AssertionError("".join(report))


def error_of(page: Path) -> str | None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run_blocks(page)
            run_examples(page)
    except BaseException:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    print(json.dumps({page: error_of(Path(page)) for page in sys.argv[1:]}))

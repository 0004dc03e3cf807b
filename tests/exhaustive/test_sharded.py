"""Two processes with half a batch each and modules under `fully_shard` (FSDP2) write what one
process with the whole modules and the whole batch does.
"""

import copy
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_tensor

from mtrl_fairgrad import Accumulator, Convention, alpha_fair, backward, combine, make_method
from tests.support.processes import two_processes

K = 3
HALVES = (slice(0, 6), slice(6, 12))
WHOLE = slice(None)
EXACT = {"rtol": 1e-9, "atol": 1e-11}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo on one machine")


class Model(nn.Module):
    """An encoder of two layers, whose first one is as often odd as not, and three heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5)).double()
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(K)).double()
        self.inputs = torch.randn(12, 4, dtype=torch.float64)
        self.targets = torch.randn(K, 12, 1, dtype=torch.float64)

    def losses(self, part):
        self.z = self.encoder(self.inputs[part]).sin()
        return [
            (head(self.z) - target[part]).square().mean() * 4.0**i
            for i, (head, target) in enumerate(zip(self.heads, self.targets, strict=True))
        ]


def sharded_encoder(model, mesh):
    fully_shard(model.encoder[0], mesh=mesh)
    fully_shard(model.encoder, mesh=mesh)


def sharded_modules(model, mesh):
    sharded_encoder(model, mesh)
    for head in model.heads:
        fully_shard(head, mesh=mesh)


def one_group(model, mesh):
    fully_shard(model.encoder, mesh=mesh)
    for head in model.heads:
        fully_shard(head, mesh=mesh, reshard_after_forward=False)


def step(name, convention=None, accumulated=False, represented=False, alpha=None, twice=False):
    """One way to call `backward` or `Accumulator`; returns what it reports."""

    def take(model, part):
        method = make_method(name) if alpha is None else alpha_fair(make_method(name), alpha)
        method.init(K)
        noise = torch.Generator().manual_seed(3)
        options = {"convention": convention or Convention()}
        if accumulated:
            accumulator = Accumulator(shared=model.encoder, own=model.heads, **options)
            for piece in torch.arange(12)[part].chunk(2):
                accumulator.add([loss / 2 for loss in model.losses(piece)])
            return accumulator.backward(method, noise)
        for _ in range(1 + twice):
            losses = model.losses(part)
            options["representation"] = model.z if represented else None
            report = backward(
                losses, method, shared=model.encoder, own=model.heads, noise=noise, **options
            )
        return report

    return take


STEPS = {
    "fairgrad": step("fairgrad"),
    "fairgrad twice": step("fairgrad", twice=True),
    "nash_mtl": step("nash_mtl"),
    "pcgrad": step("pcgrad"),
    "cagrad": step("cagrad"),
    "uw": step("uw"),
    "ls weighted": step("si", Convention("weighted")),
    "alpha": step("fairgrad", alpha=0.5),
    "convention": step("fairgrad", Convention("weighted", "tasks", 0.5)),
    "accumulated": step("fairgrad", accumulated=True),
    "representation": step("fairgrad", represented=True),
    "representation si": step("si", represented=True),
}
LAYOUTS = {
    "encoder": (sharded_encoder, (2,)),
    "modules": (sharded_modules, (2,)),
    "group": (one_group, (2,)),
    "copies": (sharded_modules, (2, 1)),
    "hybrid": (sharded_modules, (1, 2)),
}
CASES = [
    (layout, name)
    for layout, (_, shape) in LAYOUTS.items()
    for name in STEPS
    if shape == (2,) or name in ("fairgrad", "convention", "representation")
]


def whole(tensor):
    if tensor is None:
        return None
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def taken(take, model, part):
    """What a step reports, the gradients and the parameters after a step of Adam."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    report = take(model, part)
    grads = [whole(parameter.grad) for parameter in parameters]
    optimizer.step()
    return report, grads, [whole(parameter) for parameter in parameters]


def refusals(mesh):
    """Error messages by what was tried."""
    found = {}

    def attempt(name, run):
        try:
            run()
        except (ValueError, TypeError) as error:
            found[name] = str(error)
        else:
            found[name] = ""

    def tried(name, method="fairgrad", shard=sharded_encoder, **options):
        model = Model()
        shard(model, mesh)
        before = [parameter.grad for parameter in model.parameters()]
        losses = model.losses(HALVES[dist.get_rank()])
        attempt(
            name,
            lambda: backward(
                losses, make_method(method), shared=model.encoder, own=model.heads, **options
            ),
        )
        assert before == [parameter.grad for parameter in model.parameters()]

    tried("graddrop", "graddrop")
    tried("tasks_per_pass", tasks_per_pass=2)
    tried("process_group", process_group=None)

    def fsdp1(whole_parameters):
        def shard(model, mesh):
            model.encoder = FullyShardedDataParallel(
                model.encoder, device_id=torch.device("cpu"), use_orig_params=whole_parameters
            )

        return shard

    tried("fsdp1", shard=fsdp1(False))
    tried("fsdp1 original", shard=fsdp1(True))

    weight = nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh))
    loss = (weight * 2).sum().full_tensor()
    attempt(
        "tensor parallel",
        lambda: backward([loss, loss * 2], make_method("fairgrad"), shared=[weight]),
    )
    stacked = {"weight": distribute_tensor(torch.ones(2, 4), mesh)}
    attempt(
        "combine",
        lambda: combine(
            make_method("fairgrad"),
            lambda shared, context, own, x: ((shared["weight"] * x).sum(), ()),
            stacked,
            torch.ones(2, 3, 4),
        ),
    )
    return found


def hooks(mesh):
    """How often a hook of a stored parameter runs, and with which gradient."""
    model = Model()
    sharded_encoder(model, mesh)
    seen = []
    first = next(model.encoder.parameters())
    first.register_post_accumulate_grad_hook(lambda parameter: seen.append(whole(parameter.grad)))
    step("fairgrad")(model, HALVES[dist.get_rank()])
    return len(seen), torch.equal(seen[-1], whole(first.grad))


def overflow(mesh):
    model = Model()
    sharded_encoder(model, mesh)
    parameters = list(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    found = []
    for factor in (1.0, float("inf")):
        losses = model.losses(HALVES[dist.get_rank()])
        losses[0] = losses[0] * (factor if dist.get_rank() else 1)
        report = backward(
            losses, make_method("fairgrad"), shared=model.encoder, own=model.heads, scaler=scaler
        )
        grads = [whole(parameter.grad) for parameter in parameters]
        found.append((bool(report["skipped"]), grads))
        for parameter in parameters:
            parameter.grad = None
    return found


def work(rank, folder):
    with two_processes(rank, folder):
        found = {}
        meshes = {
            shape: init_device_mesh("cpu", shape, mesh_dim_names=("a", "b")[: len(shape)])
            for shape in ((2,), (2, 1), (1, 2))
        }
        for layout, name in CASES:
            shard, shape = LAYOUTS[layout]
            model = Model()
            shard(model, meshes[shape])
            found[layout, name] = taken(STEPS[name], model, HALVES[rank])
        found["refusals"] = refusals(meshes[2,])
        found["hooks"] = hooks(meshes[2,])
        found["overflow"] = overflow(meshes[2,])
        torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def close(left, right):
    assert (left is None) == (right is None)
    if left is not None:
        torch.testing.assert_close(left.double(), right.double(), **EXACT)


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_shards_are_trained_as_whole_parameters(found, layout, name):
    expected, grads, after = taken(STEPS[name], Model(), WHOLE)
    for rank in range(2):
        report, found_grads, found_after = found[rank][layout, name]
        assert report.keys() == expected.keys()
        for key, value in expected.items():
            close(report[key], value)
        for left, right in zip([*found_grads, *found_after], [*grads, *after], strict=True):
            close(left, right)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("graddrop", "graddrop"),
        ("tasks_per_pass", "tasks_per_pass=2"),
        ("process_group", "process_group"),
        ("fsdp1", "use fully_shard"),
        ("fsdp1 original", "use fully_shard"),
        ("tensor parallel", "tensor parallelism"),
        ("combine", "DTensor"),
    ],
)
def test_what_cannot_work_is_one_sentence(found, name, words):
    for rank in range(2):
        message = found[rank]["refusals"][name]
        assert words in message and message.endswith(".") and "\n" not in message


def test_hooks_that_wait_for_grad_run_once(found):
    assert [each["hooks"] for each in found] == [(1, True)] * 2


def test_a_scaler_works_in_all_processes_at_once(found):
    model = Model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    backward(
        model.losses(WHOLE),
        make_method("fairgrad"),
        shared=model.encoder,
        own=model.heads,
        scaler=scaler,
    )
    for each in found:
        (skipped, grads), (skipped_then, nothing) = each["overflow"]
        assert not skipped and skipped_then
        for left, right in zip(grads, [p.grad for p in model.parameters()], strict=True):
            close(left, right)
        assert all(gradient.isnan().all() for gradient in nothing)


def test_a_model_that_is_not_distributed_needs_no_group():
    model = copy.deepcopy(Model())
    assert step("fairgrad")(model, WHOLE)["converged"]

"""QM9 (Ramakrishnan et al., 2014): 11 properties of molecules, each a task; paper §5.1, Table 8.

Network and schedule are those of Nash-MTL's code (Navon et al., 2022), on which the paper builds,
after PyTorch Geometric's example. One difference: that code standardises by the mean and deviation
of all molecules, here by default only the training molecules count. Needs `torch_geometric`, and
`rdkit` when raw files are read for the first time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mtrl_fairgrad.supervised.benchmark import (
    Benchmark,
    DataError,
    Meter,
    Metric,
    MultiTaskModel,
    Schedule,
    Splits,
    seeded_loader,
)
from mtrl_fairgrad.supervised.benchmarks.qm9_files import EXPECTED, geometric, load_molecules
from mtrl_fairgrad.utils.validation import check_choice


class Property(NamedTuple):
    """One task."""

    column: int
    """Column of PyTorch Geometric's targets."""
    baseline: float
    """Mean absolute error of a single-task network in the official code, in the reported unit."""
    factor: float = 1.0
    """Factor from the unit of the data set to the reported one: 1000 from eV to meV."""


PROPERTIES = {
    "mu": Property(0, 0.0671),
    "polarizability": Property(1, 0.1814),
    "homo": Property(2, 60.576, 1000),
    "lumo": Property(3, 53.915, 1000),
    "r2": Property(5, 0.5027),
    "zpve": Property(6, 4.539, 1000),
    "u0": Property(12, 58.838, 1000),
    "u": Property(13, 64.244, 1000),
    "h": Property(14, 63.852, 1000),
    "g": Property(15, 66.223, 1000),
    "cv": Property(11, 0.07212),
}
"""The properties of Table 8, by its names and in its units.

Dipole moment (D), polarizability (a0³), orbital energies (meV), spatial extent (a0²), zero-point
energy, atomisation energies at 0 and 298.15 K, enthalpy and free energy (meV), heat capacity
(cal/(mol K)).
"""

_COLUMNS = [task.column for task in PROPERTIES.values()]


class Molecules(Dataset[tuple[Tensor, ...]]):
    """Molecules as complete graphs.

    An item is the result of `graph`, then targets and their scale, both `[11]`.

    Args:
        data: PyTorch Geometric's data set of N molecules.
        rows: indices below N of the molecules that belong to this set.
        targets: `[N, 11]`, standardised.
        scale: `[11]`, one unit of the standardised targets in the units of the data set.
    """

    def __init__(self, data: Any, rows: Sequence[int], targets: Tensor, scale: Tensor) -> None:
        self.data, self.rows, self.targets, self.scale = data, rows, targets, scale

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        row = self.rows[index]
        return *graph(self.data[row]), self.targets[row], self.scale


def graph(molecule: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Make the complete graph of a molecule of n atoms, with e = n(n − 1) directed edges.

    Returns:
        Atom features `[n, 11]`, edges `[2, e]` (source, target) in lexicographic order, and edge
        features `[e, 5]`: the one-hot bond type, all zero without a bond, and the distance in Å.
    """
    n = molecule.num_nodes
    bonds = molecule.edge_attr.new_zeros(n, n, molecule.edge_attr.shape[1])
    bonds[tuple(molecule.edge_index)] = molecule.edge_attr
    edges = (~torch.eye(n, dtype=torch.bool)).nonzero().T
    source, target = edges
    distances = (molecule.pos[target] - molecule.pos[source]).norm(dim=1, keepdim=True)
    return molecule.x, edges, torch.cat([bonds[source, target], distances], dim=1)


def collate(items: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Join B molecules to one graph with n atoms and e edges in all, unconnected to each other.

    Returns:
        Atom features `[n, 11]`, edges `[2, e]`, edge features `[e, 5]`, the molecule of each atom
        `[n]`, standardised targets `[B, 11]`, and their scale `[11]`.
    """
    atoms, edges, features, targets, scales = zip(*items, strict=True)
    sizes = torch.tensor([len(part) for part in atoms])
    shifts = (sizes.cumsum(0) - sizes).tolist()
    shifted = [part + shift for part, shift in zip(edges, shifts, strict=True)]
    owner = torch.arange(len(items)).repeat_interleave(sizes)
    return (
        torch.cat(atoms),
        torch.cat(shifted, dim=1),
        torch.cat(features),
        owner,
        torch.stack(targets),
        scales[0],
    )


class Network(MultiTaskModel):
    """Message passing network (Gilmer et al., 2017) with 616,960 shared parameters.

    It has three rounds of edge-conditioned messages, a Set2Set readout and 11 linear heads.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = geometric("nn")
        self.atoms = nn.Linear(11, 64)
        edge_matrix = nn.Sequential(nn.Linear(5, 128), nn.ReLU(), nn.Linear(128, 64 * 64))
        self.messages = layers.NNConv(64, 64, edge_matrix, aggr="mean")
        self.update = nn.GRU(64, 64)
        self.readout = layers.Set2Set(64, processing_steps=3)
        self.features = nn.Linear(128, 64)
        self.activation = nn.ReLU()
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in PROPERTIES)

    def forward(
        self, atoms: Tensor, edges: Tensor, edge_features: Tensor, owner: Tensor
    ) -> tuple[Tensor, ...]:
        """Predict 11 standardised properties `[B]` from the first four results of `collate`.

        They are separate tensors, so that the backward pass of a task visits its own head only.
        """
        state = F.relu(self.atoms(atoms))
        for _ in range(3):
            message = F.relu(self.messages(state, edges, edge_features))
            state = self.update(message.unsqueeze(0), state.unsqueeze(0))[0].squeeze(0)
        features = self.activation(self.features(self.readout(state, owner)))
        return tuple(head(features).squeeze(1) for head in self.heads)

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Return all parameters except those of the heads."""
        shared = (self.atoms, self.messages, self.update, self.readout, self.features)
        return (parameter for layer in shared for parameter in layer.parameters())


class MeanAbsoluteError(Meter):
    """Mean absolute error of each property over all molecules, in the units of Table 8.

    NaN without molecules.
    """

    def __init__(self) -> None:
        self._sum, self._count = torch.zeros(len(PROPERTIES), dtype=torch.double), 0

    def update(self, outputs: Any, batch: Any) -> None:
        """Add 11 predictions `[B]` and a batch of `collate`."""
        *_, targets, scale = batch
        errors = (torch.stack(tuple(outputs), dim=1) - targets).abs().double() * scale
        self._sum = errors.sum(0) + self._sum.to(errors.device)
        self._count += len(errors)

    def values(self) -> dict[str, float]:
        """Return property → mean absolute error."""
        means = self._sum / self._count
        return {
            name: mean * PROPERTIES[name].factor
            for name, mean in zip(PROPERTIES, means.tolist(), strict=True)
        }


class QM9(Benchmark):
    """QM9: 110,831 molecules for training, 10,000 for validation and 10,000 for testing.

    The split is drawn with the seed of the fit.

    Args:
        root: folder with `raw/` or `processed/` in PyTorch Geometric's layout; nothing is
            downloaded.
        standardise: molecules whose mean and deviation standardise the properties: `training`;
            `all`, as in the paper's code, which so uses the test molecules, too; or `none`, the
            units of the data set, as that code without `--scale-y`.

    Raises:
        ValueError: another standardisation.
    """

    name = "qm9"
    requires = ("torch_geometric",)
    representation = "activation"
    tasks = tuple(PROPERTIES)
    metrics = tuple(Metric(task, task, higher_is_better=False) for task in PROPERTIES)
    schedule = Schedule(epochs=300, batch_size=120, learning_rate=1e-3, plateau=(0.7, 5, 1e-5))
    select_best = True
    baseline = {name: task.baseline for name, task in PROPERTIES.items()}  # noqa: RUF012 - an instance attribute's default

    def __init__(self, root: Path | None = None, standardise: str = "training") -> None:
        super().__init__(root)
        self.standardise = check_choice("standardise", standardise, ("training", "all", "none"))

    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """Make loaders of the three parts that `split` draws; batches are those of `collate`."""
        data = load_molecules(self.folder(EXPECTED))
        properties = data.y[:, _COLUMNS]
        if not properties.isfinite().all():
            raise DataError(f"{self.root} has molecules whose properties are not finite.")
        train, validation, test = split(len(data), seed)
        if self.standardise == "none":
            targets, scale = properties.float(), torch.ones(len(PROPERTIES))
        else:
            rows = train if self.standardise == "training" else range(len(data))
            targets, scale = standardise(properties, rows)

        def loader(rows: Sequence[int], shuffle: bool = False) -> DataLoader[Any]:
            molecules = Molecules(data, rows, targets, scale)
            return seeded_loader(
                molecules, batch_size, seed, workers, pin_memory, shuffle, collate_fn=collate
            )

        return Splits(loader(train, shuffle=True), loader(validation), loader(test))

    def model(self) -> Network:
        """Make the paper's network."""
        return Network()

    def losses(self, outputs: Any, batch: Any) -> list[Tensor]:
        """Return the mean squared errors of the standardised properties."""
        *_, targets, _ = batch
        return [
            F.mse_loss(output, target)
            for output, target in zip(outputs, targets.unbind(1), strict=True)
        ]

    def meter(self) -> MeanAbsoluteError:
        """Make a meter of mean absolute errors."""
        return MeanAbsoluteError()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """Return atoms, edges, edge features and the molecule of each atom."""
        return batch[:4]


def split(count: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Draw disjoint rows for training, validation and testing, 10,000 each for the last two.

    Fewer than 130,000 molecules are split in the proportion 11 : 1 : 1.

    Raises:
        DataError: fewer than three molecules.
    """
    if count < 3:
        raise DataError(
            f"QM9 has {count} molecules here, but each of its three parts needs at least one."
        )
    held_out = min(10_000, max(1, round(count / 13)))
    rows = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return rows[2 * held_out :], rows[held_out : 2 * held_out], rows[:held_out]


def standardise(properties: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Subtract the mean and divide by the standard deviation of some rows.

    Args:
        properties: `[N, K]`.
        rows: for example those of the training molecules.

    Returns:
        Targets `[N, K]` and divisors `[K]`; a divisor is 1 where all these rows are equal.
    """
    exact = properties.double()
    seen = exact[list(rows)]
    # Not `seen.std(0) == 0`: rounding of the mean can give a constant column a deviation of 1e-17.
    constant = seen.amax(0) == seen.amin(0)
    scale = torch.where(constant, 1.0, seen.std(0))
    return ((exact - seen.mean(0)) / scale).float(), scale.float()

"""QM9 from raw files in its own format: processing, graphs, no leakage, network, damaged data."""

from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mtrl_fairgrad import LS, FairGrad
from mtrl_fairgrad.analysis.paper_tables import paper_table
from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks import benchmark_class, qm9
from mtrl_fairgrad.supervised.benchmarks.qm9 import QM9
from mtrl_fairgrad.utils import extras
from mtrl_fairgrad.utils.extras import MissingExtraError
from tests.support.errors import refused as refused_value
from tests.unit.supervised.benchmarks.test_celeba import mean_losses

torch_geometric = pytest.importorskip("torch_geometric")
Chem = pytest.importorskip("rdkit.Chem")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")

# fmt: off
SMILES = 4 * [
    "C", "N", "O", "C#C", "C#N", "C=O", "CC", "CO", "CC#C", "CC#N", "CC=O", "NC=O", "CCC", "CCO",
    "C1CC1", "C1CO1", "CC(C)=O", "CC(N)=O", "NC(N)=O", "CC(C)C", "CF", "CCF", "OCO", "NCC", "COC",
    "CNC", "C=C", "CC=C", "C=CC=C", "c1cc[nH]c1", "c1ccoc1", "FC(F)F",
]
"""Molecules in four conformations each."""
COLUMNS = [
    "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u298", "h298", "g298", "cv",
    "u0_atom", "u298_atom", "h298_atom", "g298_atom",
]
REPORTED = [
    "mu", "alpha", "homo", "lumo", "r2", "zpve", "u0_atom", "u298_atom", "h298_atom", "g298_atom",
    "cv",
]
# fmt: on
"""The columns of the CSV that the 11 tasks predict, in their order."""
SKIPPED = 3
"""Number of molecules that `uncharacterized.txt` lists."""
HARTREE, KCAL = 27.211386246, 0.04336414
"""In eV; the CSV has orbital energies and `zpve` in the one, atomisation energies in the other (per
mol).
"""
UNITS = {
    **dict.fromkeys(("homo", "lumo", "zpve"), HARTREE),
    **dict.fromkeys(("u0_atom", "u298_atom", "h298_atom", "g298_atom"), KCAL),
}


@cache
def molecules():
    """With hydrogens and coordinates."""
    found = []
    for index, smiles in enumerate(SMILES):
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert AllChem.EmbedMolecule(molecule, randomSeed=index) == 0
        molecule.SetProp("_Name", f"gdb_{index + 1}")
        found.append(molecule)
    return found


@cache
def numbers_of_atoms():
    """`[N, 5]`: hydrogen, carbon, nitrogen, oxygen, fluorine."""
    symbols = [[atom.GetSymbol() for atom in molecule.GetAtoms()] for molecule in molecules()]
    return np.array([[atoms.count(symbol) for symbol in "HCNOF"] for atoms in symbols])


def properties():
    """Column of the CSV → one number per molecule, a noisy function of its atoms."""
    generator = np.random.default_rng(0)
    numbers = numbers_of_atoms() @ generator.normal(
        1, 0.5, (5, len(COLUMNS))
    )  # all grow with size, as most of QM9 does
    numbers += generator.normal(0, 0.1, numbers.shape)
    return dict(zip(COLUMNS, numbers.T, strict=True))


def write_qm9(root, columns):
    raw = root / "raw"
    raw.mkdir(parents=True)
    with Chem.SDWriter(str(raw / "gdb9.sdf")) as writer:
        for molecule in molecules():
            writer.write(molecule)
    rows = [
        ",".join(
            [
                f"gdb_{index + 1}",
                "1.0",
                "2.0",
                "3.0",
                *(repr(float(columns[name][index])) for name in COLUMNS),
            ]
        )
        for index in range(len(SMILES))
    ]
    (raw / "gdb9.sdf.csv").write_text("\n".join(["mol_id,A,B,C," + ",".join(COLUMNS), *rows, ""]))
    skipped = [f"{index + 1:7d} {SMILES[index]} {SMILES[index]}" for index in range(SKIPPED)]
    (raw / "uncharacterized.txt").write_text(
        "\n".join([*["head"] * 9, *skipped, f"{SKIPPED} compounds", ""])
    )
    return root


def used(columns):
    """`[N, 11]`: what the tasks predict, in the data set's units, without the molecules that are
    skipped.
    """
    return np.stack([columns[name][SKIPPED:] * UNITS.get(name, 1.0) for name in REPORTED], axis=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_qm9(tmp_path_factory.mktemp("qm9"), properties())


@pytest.fixture
def raw_root(tmp_path):
    return write_qm9(tmp_path, properties())


def splits(root, seed=0, batch_size=4):
    return QM9(root).splits(seed, batch_size, 0, False)


def test_tasks_metrics_and_schedule_are_the_papers():
    assert benchmark_class("qm9") is QM9
    benchmark, table = QM9(), paper_table("table8")
    assert benchmark.tasks == tuple(metric.name for metric in table.metrics)
    assert not any(metric.higher_is_better for metric in benchmark.metrics)
    stl = table.row("stl")
    difference = np.array(list(benchmark.baseline.values())) - table.values[stl]
    assert (
        np.abs(difference) <= 2.001 * table.rounding[stl]
    ).all()  # the paper cuts digits off, not always rounding
    assert [task.column for task in qm9.PROPERTIES.values()] == [
        0,
        1,
        2,
        3,
        5,
        6,
        12,
        13,
        14,
        15,
        11,
    ]
    factors = [1000 if index in (2, 3, 5, 6, 7, 8, 9) else 1 for index in range(11)]
    assert [task.factor for task in qm9.PROPERTIES.values()] == factors
    assert (
        benchmark.schedule.epochs,
        benchmark.schedule.batch_size,
        benchmark.schedule.learning_rate,
    ) == (
        300,
        120,
        1e-3,
    )
    assert benchmark.schedule.plateau == (0.7, 5, 1e-5)


def test_the_network_has_the_paper_s_size(root):
    model = QM9().model()
    assert sum(parameter.numel() for parameter in model.shared_parameters()) == 616_960
    assert sum(parameter.numel() for parameter in model.own_parameters()) == 11 * 65
    batch = next(iter(splits(root).train))
    outputs = model(*QM9().inputs(batch))
    assert len(outputs) == 11 and all(part.shape == (4,) for part in outputs)


def test_a_molecule_s_prediction_depends_on_itself_alone(root):
    dataset, model = splits(root).train.dataset, QM9().model()
    together = torch.stack(model(*qm9.collate([dataset[index] for index in range(6)])[:4]))
    apart = [torch.stack(model(*qm9.collate([dataset[index]])[:4])) for index in range(6)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1), rtol=1e-4, atol=1e-5)


def test_graphs_are_complete_with_bonds_and_distances(root):
    dataset = splits(root).train.dataset
    chemistry = molecules()[SKIPPED:]
    kinds = {
        Chem.BondType.SINGLE: 0,
        Chem.BondType.DOUBLE: 1,
        Chem.BondType.TRIPLE: 2,
        Chem.BondType.AROMATIC: 3,
    }
    for index, row in enumerate(dataset.rows):
        molecule = Chem.Mol(chemistry[row])
        Chem.Kekulize(molecule, clearAromaticFlags=True)  # as SDF files write rings
        atoms, edges, features, _, _ = dataset[index]
        n = molecule.GetNumAtoms()
        assert (
            atoms.shape == (n, 11)
            and edges.shape == (2, n * (n - 1))
            and features.shape == (n * (n - 1), 5)
        )
        assert edges.T.tolist() == [[i, j] for i in range(n) for j in range(n) if i != j]
        assert atoms[:, 5].tolist() == [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
        places = molecule.GetConformer().GetPositions()
        for (i, j), feature in zip(edges.T.tolist(), features, strict=True):
            bond = molecule.GetBondBetweenAtoms(i, j)
            expected = [0.0] * 4
            if bond is not None:
                expected[kinds[bond.GetBondType()]] = 1.0
            assert feature[:4].tolist() == expected
            assert feature[4].item() == pytest.approx(
                np.linalg.norm(places[i] - places[j]), abs=2e-4
            )


def test_parts_follow_the_seed_cover_everything_and_do_not_overlap():
    parts = qm9.split(130_831, seed=0)
    assert [len(part) for part in parts] == [110_831, 10_000, 10_000]
    assert sorted(row for part in parts for row in part) == list(range(130_831))
    assert qm9.split(130, seed=0) == qm9.split(130, seed=0) != qm9.split(130, seed=1)
    assert [len(part) for part in qm9.split(130, seed=0)] == [110, 10, 10]
    assert [len(part) for part in qm9.split(3, seed=0)] == [1, 1, 1]
    with pytest.raises(DataError, match="2 molecules"):
        qm9.split(2, seed=0)


def test_targets_are_standardised_by_the_training_rows(root):
    numbers = used(properties())
    parts = splits(root, seed=5)
    rows = qm9.split(len(numbers), seed=5)
    mean, deviation = numbers[rows[0]].mean(0), numbers[rows[0]].std(0, ddof=1)
    for loader, part in zip((parts.train, parts.validation, parts.test), rows, strict=True):
        items = [loader.dataset[index] for index in range(len(part))]
        found = torch.stack([item[3] for item in items]).numpy()
        np.testing.assert_allclose(found, (numbers[part] - mean) / deviation, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(items[0][4].numpy(), deviation, rtol=1e-5)


@pytest.mark.parametrize("chosen", ["all", "none"])
def test_targets_are_standardised_by_all_rows_or_not_at_all(root, chosen):
    numbers = used(properties())
    loader = QM9(root, standardise=chosen).splits(0, 4, 0, False).test
    rows = qm9.split(len(numbers), seed=0)[2]
    mean, deviation = (
        (numbers.mean(0), numbers.std(0, ddof=1)) if chosen == "all" else (0.0, np.ones(11))
    )
    items = [loader.dataset[index] for index in range(len(rows))]
    found = torch.stack([item[3] for item in items]).numpy()
    np.testing.assert_allclose(found, (numbers[rows] - mean) / deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(items[0][4].numpy(), deviation, rtol=1e-5)
    with refused_value("standardise", "test"):
        QM9(root, standardise="test")


def test_nothing_of_the_other_rows_reaches_the_training_targets(root, tmp_path):
    columns = properties()
    training, *others = qm9.split(len(SMILES) - SKIPPED, seed=0)
    held_out = SKIPPED + np.concatenate(others)
    changed = {
        name: np.where(np.isin(np.arange(len(SMILES)), held_out), 1e3, column)
        for name, column in columns.items()
    }
    plain, other = splits(root), splits(write_qm9(tmp_path, changed))
    for index in range(len(training)):
        for left, right in zip(plain.train.dataset[index], other.train.dataset[index], strict=True):
            assert torch.equal(left, right)
    assert not torch.equal(plain.test.dataset[0][3], other.test.dataset[0][3])


@pytest.mark.parametrize("constant", [0.0, 0.1, -76.4])
def test_a_constant_target_is_only_centred(tmp_path, constant):
    columns = {**properties(), "r2": np.full(len(SMILES), constant)}
    benchmark, parts = QM9(tmp_path), splits(write_qm9(tmp_path, columns))
    items = [parts.train.dataset[index] for index in range(len(parts.train.dataset))]
    assert all(
        item[3][4].item() == pytest.approx(0, abs=1e-6) and item[4][4] == 1 for item in items
    )
    batch = next(iter(parts.train))
    losses = torch.stack(benchmark.losses(benchmark.model()(*benchmark.inputs(batch)), batch))
    assert losses.isfinite().all()


def test_losses_are_mean_squares(root):
    batch = next(iter(splits(root).train))
    outputs = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    found = torch.stack(QM9().losses(tuple(outputs), batch))
    torch.testing.assert_close(found, ((outputs - batch[4].T) ** 2).mean(1))


def test_errors_are_mean_absolute_in_the_units_of_table_8(root):
    numbers = used(properties())
    rows = qm9.split(len(numbers), seed=0)
    mean, deviation = numbers[rows[0]].mean(0), numbers[rows[0]].std(0, ddof=1)
    guesses = np.random.default_rng(1).normal(0, 1, (len(rows[2]), 11))
    meter, start = QM9().meter(), 0
    for batch in splits(root, batch_size=2).test:
        size = len(batch[4])
        meter.update(
            tuple(torch.from_numpy(guesses[start : start + size]).float().unbind(1)), batch
        )
        start += size
    assert start == len(rows[2]) > 2
    expected = np.abs(guesses * deviation + mean - numbers[rows[2]]).mean(0)
    expected[[2, 3, 5, 6, 7, 8, 9]] *= 1000
    assert list(meter.values()) == list(QM9.tasks)
    np.testing.assert_allclose(list(meter.values().values()), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "method", [LS(), pytest.param(FairGrad(alpha=2), marks=pytest.mark.exhaustive)]
)
def test_two_epochs_lower_the_loss(root, method):
    first, second = mean_losses(QM9(root), method, batch_size=6, learning_rate=1e-3)
    assert second < 0.9 * first


def test_processed_files_are_enough(root, tmp_path):
    splits(root)
    (tmp_path / "processed").mkdir()
    (tmp_path / "processed/data_v3.pt").write_bytes((root / "processed/data_v3.pt").read_bytes())
    for left, right in zip(
        splits(root).test.dataset[0], splits(tmp_path).test.dataset[0], strict=True
    ):
        assert torch.equal(left, right)
    assert not (tmp_path / "raw").exists()


def data_of_version_1(data):
    """A `Data` object as before version 2: its tensors are attributes, unused ones None."""
    old = torch_geometric.data.Data.__new__(torch_geometric.data.Data)
    old.__dict__.update(data.to_dict(), face=None, norm=None, __num_nodes__=None)
    return old


@pytest.mark.parametrize(
    "older",
    [
        lambda data, slices, cls: (data_of_version_1(data), slices),
        lambda data, slices, cls: (data, defaultdict(dict, slices)),
        lambda data, slices, cls: (data.to_dict(), slices),
        lambda data, slices, cls: (data.to_dict(), slices, cls),
        lambda data, slices, cls: (data.to_dict(), slices, cls, {}),
    ],
    ids=["1.x", "2.0", "2.4", "2.5", "4 entries"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_processed_files_of_all_versions_are_read_equally(root, tmp_path, older, zipped):
    expected = splits(root)
    contents, slices, cls = torch.load(root / "processed/data_v3.pt", weights_only=True)
    data = torch_geometric.data.Data.from_dict(contents)
    (tmp_path / "processed").mkdir()
    torch.save(
        older(data, slices, cls),
        tmp_path / "processed/data_v3.pt",
        _use_new_zipfile_serialization=zipped,
    )
    before = torch.serialization.get_safe_globals()
    found = splits(tmp_path)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    for part in ("train", "validation", "test"):
        left, right = (getattr(one, part).dataset for one in (expected, found))
        assert left.rows == right.rows
        for index in range(len(left)):
            assert all(torch.equal(*pair) for pair in zip(left[index], right[index], strict=True))


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("content", [(Harmful(), {}), ({"x": 1}, {"x": 1}), {}, ({}, None)])
def test_processed_files_run_no_code_and_must_hold_molecules(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "processed").mkdir()
    torch.save(content, tmp_path / "processed/data_v3.pt")
    refused(tmp_path, "data_v3.pt is damaged")
    assert not (tmp_path / "harm").exists()


# ---- damaged data ----


def refused(root, *words):
    with pytest.raises(DataError) as caught:
        splits(root)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_without_files_it_says_what_is_needed_and_downloads_nothing(tmp_path, monkeypatch):
    from torch_geometric import datasets

    monkeypatch.setattr(datasets.QM9, "download", lambda self: pytest.fail("it tried to download"))
    expected = ("processed/data_v3.pt", "raw/gdb9.sdf.csv", "raw/uncharacterized.txt", "https://")
    refused(None, "data.root", *expected)
    refused(tmp_path / "nowhere", "nowhere does not exist", *expected)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("missing", ["gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt"])
def test_a_missing_raw_file_is_named(raw_root, missing):
    (raw_root / "raw" / missing).unlink()
    refused(raw_root, f"lacks processed/data_v3.pt and raw/{missing}:")


def test_mismatched_counts_are_refused(raw_root):
    table = raw_root / "raw/gdb9.sdf.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    refused(raw_root, f"{len(SMILES)} molecules", f"{len(SMILES) - 1} rows")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("gdb9.sdf.csv", "gdb_7,1.0", "gdb_7,one"),
        ("gdb9.sdf.csv", "gdb_7,1.0", "gdb_7"),
        ("gdb9.sdf", " C ", " Q "),
        ("gdb9.sdf", " C ", " Si"),
        ("uncharacterized.txt", "      2", "    two"),
    ],
)
def test_damaged_raw_files_are_refused(raw_root, file, old, new):
    path = raw_root / "raw" / file
    assert old in path.read_text()
    path.write_text(
        new.join(path.read_text().rsplit(old, 1))
    )  # the last one: the first molecules are skipped
    refused(raw_root, str(raw_root / "raw"), "data_v3.pt")


def test_properties_that_are_not_finite_are_refused(tmp_path):
    columns = properties()
    columns["homo"][7] = np.nan
    refused(write_qm9(tmp_path, columns), "not finite")


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_damaged_processed_files_are_refused(raw_root, keep):
    splits(raw_root)
    processed = raw_root / "processed/data_v3.pt"
    processed.write_bytes(processed.read_bytes()[:keep])
    refused(raw_root, "data_v3.pt is damaged")


def test_without_torch_geometric_it_says_what_to_install(root, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for call in (lambda: splits(root), QM9().model):
        with pytest.raises(MissingExtraError, match=r"torch_geometric.*\[supervised\]"):
            call()


def test_without_rdkit_raw_files_are_refused(raw_root, monkeypatch):
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "rdkit" else found(name))
    with pytest.raises(MissingExtraError, match=r"rdkit.*\[supervised\]"):
        splits(raw_root)

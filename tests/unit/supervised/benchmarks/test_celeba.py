"""CelebA from files in its own format: reading, network, losses, F1, and damaged data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score
from torch import nn

from mtrl_fairgrad import LS, FairGrad, backward
from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks import benchmark_class
from mtrl_fairgrad.supervised.benchmarks.celeba import ATTRIBUTES, CelebA

LABELS, PARTITION, IMAGES = (
    "Anno/list_attr_celeba.txt",
    "Eval/list_eval_partition.txt",
    "Img/img_align_celeba",
)
PARTS = (0,) * 32 + (1,) * 6 + (2,) * 5


def write_celeba(root, parts=PARTS, seed=0):
    """Write noisy faces of 178 × 218 whose colour determines their attributes.

    Returns the labels `[N, 40]`, each −1 or 1.
    """
    generator = np.random.default_rng(seed)
    colours = generator.uniform(40, 215, (len(parts), 3))
    labels = np.where(colours[:, np.arange(40) % 3] > 127, 1, -1)
    names = [f"{index + 1:06d}.jpg" for index in range(len(parts))]
    for folder in ("Anno", "Eval", IMAGES):
        (root / folder).mkdir(parents=True)
    for name, colour in zip(names, colours, strict=True):
        pixels = colour + generator.normal(0, 8, (218, 178, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / IMAGES / name, quality=95)
    rows = [
        f"{name} " + " ".join(f"{label:2d}" for label in row)
        for name, row in zip(names, labels, strict=True)
    ]
    (root / LABELS).write_text("\n".join([str(len(parts)), " ".join(ATTRIBUTES) + " ", *rows, ""]))
    pairs = zip(names, parts, strict=True)
    (root / PARTITION).write_text("".join(f"{name} {part}\n" for name, part in pairs))
    return labels


def mean_losses(benchmark, method, batch_size, learning_rate, epochs=2):
    """Train with `backward`; returns the mean loss over tasks of each epoch."""
    torch.manual_seed(0)
    loader = benchmark.splits(0, batch_size, 0, False).train
    model = benchmark.model()
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    method = method.init(len(benchmark.tasks))
    course = []
    for _ in range(epochs):
        total = 0.0
        for batch in loader:
            losses = benchmark.losses(model(*benchmark.inputs(batch)), batch)
            optimizer.zero_grad()
            backward(losses, method, shared=model.shared_parameters(), own=model.own_parameters())
            optimizer.step()
            total += torch.stack(losses).mean().item()
        course.append(total / len(loader))
    return course


@pytest.fixture
def root(tmp_path):
    write_celeba(tmp_path)
    return tmp_path


def splits(root, seed=0, batch_size=8):
    return CelebA(root).splits(seed, batch_size, 0, False)


def rewrite(file: Path, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_tasks_metrics_and_schedule_are_the_papers():
    assert benchmark_class("celeba") is CelebA
    benchmark = CelebA()
    assert len(benchmark.tasks) == len(benchmark.metrics) == 40
    assert benchmark.tasks[0] == "5_o_Clock_Shadow" and benchmark.tasks[-1] == "Young"
    assert (
        benchmark.schedule.epochs,
        benchmark.schedule.batch_size,
        benchmark.schedule.learning_rate,
    ) == (
        15,
        256,
        3e-4,
    )
    assert [metric.name for metric in benchmark.metrics] == list(benchmark.baseline)
    assert all(
        metric.higher_is_better and metric.name.startswith("f1_") for metric in benchmark.metrics
    )
    assert (
        benchmark.baseline["f1_5_o_Clock_Shadow"] == 0.6736886
        and benchmark.baseline["f1_Young"] == 0.91907
    )
    assert benchmark.select_best


def test_the_network_has_the_paper_s_size_and_layers():
    model = CelebA().model()
    assert sum(parameter.numel() for parameter in model.shared_parameters()) == 5_176_640
    assert sum(parameter.numel() for parameter in model.own_parameters()) == 40 * 513
    kinds = (nn.Conv2d, nn.Linear)
    layers = [layer for layer in model.shared.modules() if isinstance(layer, kinds)]
    assert [layer.weight.shape[0] for layer in layers] == [
        64,
        128,
        128,
        256,
        256,
        512,
        512,
        512,
        512,
    ]
    sizes = []
    hooks = [
        layer.register_forward_hook(lambda *given: sizes.append(given[2].shape[-1]))
        for layer in layers[:7]
    ]
    logits = model(torch.zeros(2, 3, 64, 64))
    assert len(hooks) == 7 and sizes == [64, 32, 32, 16, 16, 8, 8]
    assert len(logits) == 40 and all(part.shape == (2,) for part in logits)


def test_items_are_the_resized_pixels_and_the_labels_of_the_file(tmp_path):
    labels = write_celeba(tmp_path)
    parts = splits(tmp_path)
    for loader, part in ((parts.train, 0), (parts.validation, 1), (parts.test, 2)):
        rows = np.flatnonzero(np.array(PARTS) == part)
        assert len(loader.dataset) == len(rows)
        for index in (0, len(rows) - 1):
            image, found = loader.dataset[index]
            with Image.open(tmp_path / IMAGES / f"{rows[index] + 1:06d}.jpg") as face:
                expected = np.asarray(face.resize((64, 64), Image.Resampling.BILINEAR)) / 255
            np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-6)
            np.testing.assert_array_equal(found.numpy(), (labels[rows[index]] + 1) / 2)


def to_flat(root):
    """The authors' files without their folders."""
    for path in (LABELS, PARTITION, IMAGES):
        (root / path).rename(root / Path(path).name)
        (root / path).parent.rmdir()


def to_kaggle(root):
    """CSV lists with a heading, and images in a folder of the same name twice."""
    to_flat(root)
    _, heading, *rows = (root / "list_attr_celeba.txt").read_text().splitlines()
    lines = [",".join(["image_id", *heading.split()]), *(",".join(row.split()) for row in rows)]
    (root / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
    pairs = (root / "list_eval_partition.txt").read_text().replace(" ", ",")
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + pairs)
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        (root / name).unlink()
    (root / "img_align_celeba").rename(root / "images")
    (root / "img_align_celeba").mkdir()
    (root / "images").rename(root / "img_align_celeba/img_align_celeba")


def to_kaggle_windows(root):
    """The same, with a byte order mark and line ends of Windows."""
    to_kaggle(root)
    for file in root.glob("*.csv"):
        text = file.read_text().replace("\n", "\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())


@pytest.mark.parametrize("change", [to_flat, to_kaggle, to_kaggle_windows])
def test_all_layouts_are_read_equally(tmp_path, change):
    for name in ("official", "other"):
        (tmp_path / name).mkdir()
        write_celeba(tmp_path / name)
    change(tmp_path / "other")
    official, other = splits(tmp_path / "official"), splits(tmp_path / "other")
    for part in ("train", "validation", "test"):
        left, right = (getattr(found, part).dataset for found in (official, other))
        assert left.names == right.names and torch.equal(left.labels, right.labels)
        assert torch.equal(left[0][0], right[0][0])


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("list_attr_celeba.csv", "Young", "Old", ("first line", "attributes")),
        ("list_attr_celeba.csv", "000002.jpg,", "000002.jpg,0", ("000002.jpg", "-1 or 1")),
        ("list_eval_partition.csv", "000004.jpg,0", "000004.jpg,3", ("000004.jpg", "'3'")),
        ("list_eval_partition.csv", "000043.jpg,2\n", "", ("42", "43")),
    ],
)
def test_contradictory_csv_files_are_refused(root, file, old, new, words):
    to_kaggle(root)
    rewrite(root / file, old, new)
    refused(root, *words)


def test_the_training_order_depends_on_the_seed_alone(root):
    def order(seed):
        return torch.cat([images.mean((1, 2, 3)) for images, _ in splits(root, seed).train])

    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))


def test_losses_are_the_cross_entropies(root):
    batch = next(iter(splits(root).train))
    logits = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    found = CelebA().losses(tuple(logits), batch)
    p, y = torch.sigmoid(logits.double()), batch[1].T.double()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean(1)
    torch.testing.assert_close(torch.stack(found).double(), expected, rtol=1e-5, atol=1e-6)


def test_f1_is_scikit_learn_s_over_all_batches():
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(50, 40, generator=generator),
        torch.rand(50, 40, generator=generator).round(),
    )
    meter = CelebA().meter()
    for rows in (slice(0, 20), slice(20, 50)):
        meter.update(tuple(logits[rows].unbind(1)), (None, labels[rows]))
    for k, attribute in enumerate(ATTRIBUTES):
        expected = f1_score(labels[:, k].numpy(), logits[:, k].numpy() > 0)
        assert meter.values()[f"f1_{attribute}"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("logit", "label"), [(-1.0, 0.0), (1.0, 0.0), (-1.0, 1.0)])
def test_f1_without_a_true_positive_is_zero(logit, label):
    meter = CelebA().meter()
    meter.update(tuple(torch.full((40, 3), logit)), (None, torch.full((3, 40), label)))
    assert set(meter.values().values()) == {0.0}


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_two_epochs_lower_the_loss(root, method):
    first, second = mean_losses(CelebA(root, width=4), method, batch_size=8, learning_rate=3e-3)
    assert second < first - 0.02


def test_a_width_below_one_is_refused():
    with pytest.raises(ValueError, match="width=0"):
        CelebA(width=0)


# ---- damaged data ----


def refused(root, *words):
    with pytest.raises(DataError) as caught:
        splits(root)
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", ".html"))
    assert all(word in message for word in words), message


def test_without_a_folder_it_says_what_is_needed(tmp_path):
    refused(None, "data.root", LABELS, PARTITION, IMAGES, "https://")
    nowhere = tmp_path / "nowhere"
    refused(nowhere, "nowhere does not exist", LABELS, PARTITION, IMAGES, "https://")


@pytest.mark.parametrize("missing", [LABELS, PARTITION])
def test_a_missing_label_file_is_named(root, missing):
    (root / missing).unlink()
    refused(root, f"lacks {missing}:")


def test_a_listed_image_that_is_missing_is_named_at_the_start(root):
    (root / IMAGES / "000007.jpg").unlink()
    refused(root, "000007.jpg", "missing")


def test_an_image_lost_after_the_start_is_named_when_read(root):
    train = splits(root).train
    (root / IMAGES / "000007.jpg").unlink()
    with pytest.raises(DataError, match=r"000007\.jpg"):
        list(train)


@pytest.mark.parametrize("keep", [0, 20, 2000])
def test_a_corrupt_image_is_named_when_read(root, keep):
    file = root / IMAGES / "000003.jpg"
    content = file.read_bytes()
    assert len(content) > 4000
    file.write_bytes(content[:keep])
    train = splits(root).train
    with pytest.raises(DataError, match=r"000003\.jpg"):
        list(train)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (LABELS, "43\n", "44\n", ("44", "43")),
        (LABELS, "Young", "Old", ("attributes",)),
        (LABELS, "000002.jpg -1", "000002.jpg  0", ("000002.jpg", "-1 or 1")),
        (LABELS, "000002.jpg -1", "000002.jpg", ("000002.jpg", "40 values")),
        (PARTITION, "000043.jpg 2\n", "", ("42", "43")),
        (PARTITION, "000004.jpg 0", "000004.jpg 3", ("000004.jpg", "'3'", "0 (train)")),
        (PARTITION, "000004.jpg 0", "000004.jpg", ("000004.jpg", "''")),
        (PARTITION, "000004.jpg 0", "000099.jpg 0", ("000099.jpg", "000004.jpg")),
    ],
)
def test_contradictory_label_files_are_refused(tmp_path, file, old, new, words):
    write_celeba(tmp_path, seed=next(seed for seed in range(100) if starts_negative(seed)))
    rewrite(tmp_path / file, old, new)
    refused(tmp_path, *words)


def starts_negative(seed):
    """Whether the second image's first label is −1, which the cases above alter."""
    return np.random.default_rng(seed).uniform(40, 215, (len(PARTS), 3))[1, 0] <= 127


def test_an_empty_part_is_refused(tmp_path):
    write_celeba(tmp_path, parts=(0, 0, 2))
    refused(tmp_path, "partition 1 (validation)")


def test_label_files_that_are_not_text_are_refused(root):
    (root / LABELS).write_bytes(bytes(range(256)))
    refused(root, LABELS)

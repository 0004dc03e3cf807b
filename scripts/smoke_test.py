"""Build sdist and wheel, check that they are complete, and use the wheel in an empty environment.

    make smoke
    python scripts/smoke_test.py [--folder FOLDER]

The environment holds the wheel and its dependencies (torch, numpy, scipy), at the versions of
constraints.txt. The library runs in another folder, with foreign packages named `agents` and `envs`
on the path. Links in the project's description must be absolute, since nothing lies beside it on a
package index. Prints the installed size and the import time. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # runs before anything is installed

from mtrl_fairgrad.utils.entry_point import entry_point  # noqa: E402

ALLOWED_IMPORT_SECONDS = 1.0
"""Limit of the import's processor time beyond that of torch."""

REPOSITORY = "https://github.com/OWNER/NAME"
"""Stands for the repository's address in the description."""

FOREIGN = "raise RuntimeError('a foreign package was imported')\n"

LIBRARY = """
import time
import torch
start = time.process_time()
import mtrl_fairgrad
from mtrl_fairgrad import FairGrad, backward, combine
seconds = time.process_time() - start

torch.manual_seed(0)
encoder, heads = torch.nn.Linear(4, 5), torch.nn.ModuleList(torch.nn.Linear(5, 1) for _ in range(3))
hidden = encoder(torch.ones(2, 4)).tanh()
losses = [(head(hidden) - task).square().mean() for task, head in enumerate(heads)]
backward(losses, FairGrad(alpha=2), shared=encoder.parameters(), own=heads.parameters())
assert all(each.grad is not None and each.grad.any() for each in encoder.parameters())

def loss(shared, context, own, inputs, targets):
    return ((inputs @ shared["w"]) - targets).square().mean(), {}

shared = {"w": torch.randn(1, 4)}  # one seed
inputs, targets = torch.randn(1, 3, 8, 4), torch.randn(1, 3, 8)  # three tasks, eight samples
combined = combine(FairGrad(alpha=2).init(3, (1,)), loss, shared, inputs, targets)
assert combined.direction["w"].shape == (1, 4) and combined.direction["w"].isfinite().all()
assert mtrl_fairgrad.__version__
print(seconds)
"""


@entry_point
def main(arguments: list[str] | None = None) -> int:
    """Run the smoke test; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if missing")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            smoke_test(given.folder or Path(temporary))
        except (subprocess.CalledProcessError, AssertionError) as error:
            print(f"smoke test failed: {error}\n{getattr(error, 'stderr', '')}", file=sys.stderr)
            return 1
    return 0


def smoke_test(folder: Path) -> None:
    """Build, install and check in `folder`.

    Raises:
        CalledProcessError: a process failed.
        AssertionError: a check failed.
    """
    wheel, sdist = build(folder / "dist", folder / "builder")
    check_files(wheel, sdist)
    check_description(wheel)
    python = install(wheel, folder / "venv")
    elsewhere = folder / "elsewhere"
    for name in ("agents", "envs"):
        (elsewhere / name).mkdir(parents=True, exist_ok=True)
        (elsewhere / name / "__init__.py").write_text(FOREIGN)
    print(f"installed: {', '.join(packages(python))}")
    print(f"wheel: {wheel.stat().st_size / 1e6:.1f} MB, installed {installed_size(python):.1f} MB")

    seconds = float(run([python, "-c", LIBRARY], elsewhere).stdout)
    print(f"import beyond torch: {seconds:.2f} s")
    assert seconds < ALLOWED_IMPORT_SECONDS, f"the import takes {seconds:.2f} s beyond torch"

    said = run([python.parent / "mtrl-fairgrad", "--help"], elsewhere).stdout
    assert "evaluate" in said, said
    command = run([python, "-m", "mtrl_fairgrad.train"], elsewhere, check=False)
    print(f"python -m mtrl_fairgrad.train: {command.stderr.strip()}")
    assert command.returncode == 2, f"exit code {command.returncode}: {command.stderr}"
    assert command.stderr.count("\n") == 1, command.stderr
    assert 'pip install "mtrl-fairgrad[rl]"' in command.stderr, command.stderr


def build(folder: Path, builder: Path) -> tuple[Path, Path]:
    """Build wheel and sdist of this checkout into `folder`, as for a release.

    Args:
        folder: where they are written.
        builder: where the environment of the build backend is made.
    """
    venv.create(builder, with_pip=True, clear=True)
    python = builder / "bin" / "python"
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    run([python, "-m", "pip", "install", *quiet, *requirements], ROOT)
    run(
        [python, "-m", "hatchling", "build", "--directory", folder], ROOT, REPOSITORY_URL=REPOSITORY
    )
    [wheel], [sdist] = folder.glob("mtrl_fairgrad-*.whl"), folder.glob("mtrl_fairgrad-*.tar.gz")
    return wheel, sdist


def check_files(wheel: Path, sdist: Path) -> None:
    """Compare the files of wheel and sdist with those that git tracks.

    Raises:
        AssertionError: one is missing, or the sdist has a foreign one.
    """
    tracked = {
        path
        for path in run(["git", "ls-files"], ROOT).stdout.splitlines()
        if (ROOT / path).is_file()
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if "dist-info/" not in name}
    expected = {path for path in tracked if path.startswith("mtrl_fairgrad/")}
    expected |= {f"mtrl_fairgrad/{path}" for path in tracked if path.startswith("configs/")}
    assert packed == expected, f"wheel: {sorted(packed ^ expected)} are missing or foreign"
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    expected = {path for path in tracked if not path.endswith(".pt2")} | {"PKG-INFO"}
    assert packed == expected, f"sdist: {sorted(packed ^ expected)} are missing or foreign"


def check_description(wheel: Path) -> None:
    """Check the links of the description that a package index shows, and the project's URLs.

    Raises:
        AssertionError: a link is relative, or there is no link to the repository.
    """
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        text = re.sub(r"^```.*?^```", "", archive.read(name).decode(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text)
    relative = [
        link for pair in links for link in pair if link and not re.match(r"https?:|#", link)
    ]
    assert not relative, f"relative links in the description: {relative}"
    assert f"Project-URL: Repository, {REPOSITORY}" in text, text[:2000]


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel without extras into a new virtual environment; returns its interpreter."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*command, "--constraint", ROOT / "constraints.txt", wheel], ROOT)
    return python


def packages(python: Path) -> list[str]:
    """Return the names of the distributions that are installed, without pip and setuptools."""
    code = "from importlib.metadata import distributions as d; print(*{e.name for e in d()})"
    names = run([python, "-c", code], ROOT).stdout.split()
    return sorted(set(names) - {"pip", "setuptools"})


def installed_size(python: Path) -> float:
    """Return the size of the installed package in MB, without bytecode."""
    [folder] = python.parent.parent.glob("lib/python*/site-packages/mtrl_fairgrad")
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files) / 1e6


def run(
    command: list[str | Path], folder: Path, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a process in `folder`, with `folder` on Python's path and environment variables."""
    path = "" if folder == ROOT else str(folder)
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
    )


if __name__ == "__main__":
    sys.exit(main())

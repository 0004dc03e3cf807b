"""Search for the best α: `python -m mtrl_fairgrad.search seeds=[0,1,2] run_dir=runs/alpha`.

Takes the options of mtrl_fairgrad.train, hydra/launcher=parallel included, and sweeps over α: first
search.coarse=[1,2,5,10], then a grid with search.step=0.1 within search.radius=0.5 of the best so
far. The best α has the highest final success, mean over tasks and seeds. Every run has its own
folder below run_dir, so repeating the command resumes the search; search.csv there lists the
results.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from omegaconf import OmegaConf

from mtrl_fairgrad import train
from mtrl_fairgrad.analysis.alpha_search import AlphaSearch
from mtrl_fairgrad.analysis.run_groups import RunGroup, pool
from mtrl_fairgrad.cli.hydra_main import MULTIRUN_FLAGS
from mtrl_fairgrad.cli.override_filter import path_value
from mtrl_fairgrad.config.alpha_grid import SearchConfig, check_search
from mtrl_fairgrad.config.groups import config_group, methods_without_file
from mtrl_fairgrad.config.schema import ConfigError, typed
from mtrl_fairgrad.runs.base_run_dir import CONFIG
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.arguments import fail, override
from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.utils.safe_files import entries, is_present

DEFAULT_FOLDER = "runs/alpha"
STL = ("agent", "stl")
"""The group and choice of an agent that implies method=stl."""


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        return search(*_parse(words))
    except ValueError as error:
        return fail(error)


def _parse(words: Sequence[str]) -> tuple[list[str], SearchConfig, Path]:
    """Split the command line into overrides of the training, search options and folder.

    Raises:
        ConfigError: an override is not allowed in a search.
    """
    search_words = [word for word in words if word.startswith("search.")]
    folders = [path_value(word) for word in words if word.startswith("run_dir=")]
    overrides = [word for word in words if not word.startswith(("search.", "run_dir="))]
    for word in overrides:
        key, _, value = word.partition("=")
        _check_has_alpha(key, value)
        if key in ("alpha", "method.alpha"):
            raise ConfigError(
                f"{word} was given, but a search varies α: drop it, or give search.coarse=[…].",
                key,
                value,
            )
        if key == "resume" or key.startswith("hydra.sweep."):
            raise ConfigError(
                f"{word} was given, but a search resumes in its own folder: give run_dir=FOLDER.",
                key,
                value,
            )
    composed = OmegaConf.from_dotlist([word.removeprefix("search.") for word in search_words])
    options = typed(SearchConfig(), composed)
    check_search(options)
    overrides = [word for word in overrides if word not in MULTIRUN_FLAGS[:2]]
    return overrides, options, Path(folders[-1] if folders else DEFAULT_FOLDER)


def _check_has_alpha(key: str, value: str) -> None:
    """Check that a choice of the method, or of an agent that implies one, leaves an α to search.

    Raises:
        ConfigError: it does not.
    """
    names = value.split(",") if key == "method" else ["stl"] if (key, value) == STL else []
    if not names:
        return
    # Options of other packages' methods are known only after importing them.
    files, foreign = config_group("method"), methods_without_file()
    for name in names:
        if name in files and name not in foreign and "alpha" not in files[name]:
            raise ConfigError(
                f"{key}={value} has no α to search for: drop it, or train it with "
                f"python -m mtrl_fairgrad.train {key}={value if key == 'agent' else name}.",
                key,
                value,
            )


def search(overrides: Sequence[str], options: SearchConfig, folder: Path) -> int:
    """Train rounds of α, each as one sweep; returns the exit code.

    Args:
        overrides: overrides of the training.
        options: values of α to try.
        folder: parent of the run folders.

    Raises:
        ValueError: results in the folder cannot be compared.
    """
    alpha_search: AlphaSearch[RunGroup] = AlphaSearch(
        options, _scores, ("seeds", "final", "final_stderr"), _cells
    )
    while alphas := alpha_search.next_alphas():
        values = ",".join(f"{alpha:.10g}" for alpha in alphas)
        print(f"α: {values}", flush=True)
        # Finished runs are included: the training recognises and skips them.
        sweep = ["--multirun", *overrides, f"alpha={values}", override("hydra.sweep.dir", folder)]
        code = train.main(sweep)
        if code:
            if code != 2:  # after a mistake in the command line, repeating it does not help
                fail(f"the search stopped at α={values}; repeat the command to resume it.")
            return code
        alpha_search.record(_groups(folder, alphas), folder)
    for alpha, group, is_best in alpha_search.by_alpha():
        best = "  best" if is_best else ""
        print(f"α={alpha:<6.10g} final success {_success(group)}{best}")
    if alpha_search.tied:
        print("\nnone is the best: all α have the same final success; train longer, or try others.")
    else:
        command = alpha_search.command("train", overrides)
        print(f"\nα={alpha_search.best:.10g} has the highest final success: {command}")
    print(f"written: {folder / 'search.csv'}")
    return 0


def _groups(folder: Path, alphas: Sequence[float]) -> dict[float, RunGroup]:
    """Return the runs of each α with their seeds pooled.

    Raises:
        ConfigError: runs of one α differ in more than seeds.
    """
    groups: dict[float, RunGroup] = {}
    runs = [
        RunFolder.open(path)
        for path in entries(folder)
        if is_present(path / CONFIG) and not path.is_symlink()
    ]
    for group in pool([run for run in runs if run.config["method"].get("alpha") in alphas]):
        alpha = group.config["method.alpha"]
        if alpha in groups:
            first, second = groups[alpha].folders[0].path, group.folders[0].path
            raise ConfigError(
                f"{first} and {second} both have α={alpha:g} but differ in more than seeds: "
                "give another run_dir."
            )
        groups[alpha] = group
    return {alpha: groups[alpha] for alpha in alphas}


def _scores(groups: Mapping[float, RunGroup]) -> dict[float, float]:
    """Score by negative final success; of equal values, the first tried has the lowest score."""
    return {
        alpha: 1e-9 * position - group.final.mean
        for position, (alpha, group) in enumerate(groups.items())
    }


def _cells(alpha: float, group: RunGroup) -> list[object]:
    seeds = len(group.seeds)
    stderr = "" if seeds == 1 else f"{group.final.stderr:.6g}"
    return [f"{alpha:.10g}", seeds, f"{group.final.mean:.6g}", stderr]


def _success(group: RunGroup) -> str:
    stderr = "" if len(group.seeds) == 1 else f" ± {group.final.stderr:.3f}"
    return f"{group.final.mean:.3f}{stderr}"


if __name__ == "__main__":
    sys.exit(main())

"""Which α suits a training: `python -m mtrl_fairgrad.search seeds=[0,1,2] run_dir=runs/alpha
hydra/launcher=parallel`.

Takes the words of mtrl_fairgrad.train, sweeps over α as `mtrl_fairgrad.config.alpha_grid` says, a
round at a time, and chooses by the final success, mean over tasks and seeds.
search.coarse=[1,2,5,10], search.step=0.1 and search.radius=0.5 change where it looks. Every run has
its folder below run_dir, so the same command goes on where it was stopped; search.csv there says
what is known.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from omegaconf import OmegaConf

from mtrl_fairgrad import train
from mtrl_fairgrad.analysis.run_groups import RunGroup, pool
from mtrl_fairgrad.config.alpha_grid import SearchConfig, best_alpha, check_search, next_alphas
from mtrl_fairgrad.config.schema import ConfigError, typed
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.atomic_io import write_atomic

DEFAULT_FOLDER = "runs/alpha"


def main(arguments: Sequence[str] | None = None) -> int:
    """Search as the command line says; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(given):
        print(__doc__)
        return 0
    try:
        words, options, folder = _parsed(given)
        return search(words, options, folder)
    except ValueError as error:
        return fail(error)


def _parsed(given: Sequence[str]) -> tuple[list[str], SearchConfig, Path]:
    """The words of the training, how to search, and where.

    Raises:
        ConfigError: a word that contradicts a search.
    """
    ours = [word for word in given if word.startswith("search.")]
    places = [word.partition("=")[2] for word in given if word.startswith("run_dir=")]
    words = [word for word in given if word not in ours and not word.startswith("run_dir=")]
    for word in words:
        if word.startswith(("alpha=", "method.alpha=")):
            raise ConfigError(
                f"{word} was given, but a search looks for it: drop it, or give search.coarse=[…]."
            )
        if word.startswith(("resume=", "hydra.sweep.")):
            raise ConfigError(
                f"{word} was given, but a search goes on in its folder by itself: give "
                "run_dir=FOLDER."
            )
    composed = OmegaConf.from_dotlist([word.removeprefix("search.") for word in ours])
    options = typed(SearchConfig(), composed)
    check_search(options)
    return (
        [word for word in words if word not in ("-m", "--multirun")],
        options,
        Path((places or [DEFAULT_FOLDER])[-1]),
    )


def search(words: Sequence[str], options: SearchConfig, folder: Path) -> int:
    """Train with one α after another, or a round at once as the launcher can; returns the exit
    code.

    Args:
        words: of the training.
        options: where to look.
        folder: of all runs.

    Raises:
        ValueError: results in the folder that cannot be compared.
    """
    quoted = str(folder).replace("'", "\\'")
    known: dict[float, RunGroup] = {}
    while todo := next_alphas(_scores(known), options):
        values = ",".join(f"{alpha:.10g}" for alpha in todo)
        print(f"α: {values}", flush=True)
        # Also what is finished already, for only the training knows; it skips that.
        code = train.main(["--multirun", *words, f"alpha={values}", f"hydra.sweep.dir='{quoted}'"])
        if code:
            if code != 2:  # a mistake was told, and the same command would make it again
                fail(f"the search stopped at α={values}; the same command goes on with it.")
            return code
        known |= _groups(folder, todo)
        write_atomic(folder / "search.csv", _csv(known).encode())
    best = best_alpha(_scores(known))
    for alpha in sorted(known):
        print(
            f"α={alpha:<6.10g} final success "
            f"{_value(known[alpha])}{'  best' if alpha == best else ''}"
        )
    command = shlex.join(["python", "-m", "mtrl_fairgrad.train", *words, f"alpha={best:.10g}"])
    print(
        f"\nα={best:.10g} has the highest final success: {command}\nwritten: "
        f"{folder / 'search.csv'}"
    )
    return 0


def _groups(folder: Path, alphas: Sequence[float]) -> dict[float, RunGroup]:
    """The runs of each α, their seeds pooled.

    Raises:
        ConfigError: runs of one α that differ in more than seeds.
    """
    found: dict[float, RunGroup] = {}
    runs = [RunFolder.open(path.parent) for path in sorted(folder.glob("*/config.yaml"))]
    for group in pool([run for run in runs if run.config["method"].get("alpha") in alphas]):
        alpha = group.config["method.alpha"]
        if alpha in found:
            one, other = found[alpha].folders[0].path, group.folders[0].path
            raise ConfigError(
                f"{one} and {other} both have α={alpha:g} but differ in more than seeds: give "
                "another run_dir."
            )
        found[alpha] = group
    return {alpha: found[alpha] for alpha in alphas}


def _scores(known: dict[float, RunGroup]) -> dict[float, float]:
    """α → less is better: the final success, and of equals, such as where nothing is learned, the
    first one tried.
    """
    return {
        alpha: 1e-9 * place - group.final.mean for place, (alpha, group) in enumerate(known.items())
    }


def _csv(known: dict[float, RunGroup]) -> str:
    best = best_alpha(_scores(known))
    lines = [
        f"{alpha:.10g},{len(group.seeds)},{group.final.mean:.6g},"
        f"{'' if len(group.seeds) == 1 else f'{group.final.stderr:.6g}'},{int(alpha == best)}"
        for alpha, group in sorted(known.items())
    ]
    return "\n".join(["alpha,seeds,final,final_stderr,best", *lines, ""])


def _value(group: RunGroup) -> str:
    return f"{group.final.mean:.3f}" + (
        "" if len(group.seeds) == 1 else f" ± {group.final.stderr:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())

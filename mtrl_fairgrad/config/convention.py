"""Options of the convention by which a method's weights become gradients."""

from __future__ import annotations

from dataclasses import dataclass

from mtrl_fairgrad.utils.validation import ConfigError, option


@dataclass
class ConventionConfig:
    """How a method's weights become gradients; see `mtrl_fairgrad.gradients.conventions`."""

    name: str = option("plain", "Name of the convention, shown in reports.")
    own: str = option(
        "plain",
        "Gradients of a task's own parameters (heads). plain: unweighted; weighted: times the "
        "task's weight; weighted_losses: weighted by loss weightings only.",
    )
    scale: str = option(
        "none",
        "tasks: multiply the combined direction by K; tasks_and_own: the gradients of own "
        "parameters, too; mean_and_own: divide both by K.",
    )
    max_norm: float | None = option(
        None,
        "Largest norm of each network's combined direction, applied before "
        "agent.max_gradient_norm; null: no limit.",
    )


def check_convention(config: ConventionConfig, supervised: bool = False) -> None:
    """Check the convention's fields, and that a predefined name means the predefined convention.

    Args:
        config: the convention.
        supervised: whether it may be the one that is looked up for each method.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    from mtrl_fairgrad.gradients.conventions import CONVENTIONS, PLAIN, Convention
    from mtrl_fairgrad.gradients.official import OFFICIAL

    if config.name == OFFICIAL and not supervised:
        raise ConfigError(
            f"convention={OFFICIAL} is the paper's supervised code: choose convention=plain, which "
            "is its reinforcement-learning code.",
            "convention",
            OFFICIAL,
        )
    try:
        convention = Convention(config.own, config.scale, config.max_norm)
    except ConfigError as error:
        raise error.prefixed("convention.") from None
    predefined = {**CONVENTIONS, OFFICIAL: PLAIN}  # the latter's fields are placeholders
    if predefined.get(config.name, convention) != convention:
        raise ConfigError(
            f"convention.own={config.own}, scale={config.scale}, max_norm={config.max_norm} would "
            f"be reported as {config.name}, which is a different convention: give it a name of its "
            "own, such as convention.name=mine.",
            "convention.name",
            config.name,
        )

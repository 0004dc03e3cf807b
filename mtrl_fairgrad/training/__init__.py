"""The training of the agent: loop, trainer, learner, evaluator, logger, signals."""

"""The Python face: train, look at a run, and use its policies, in a program or a notebook.

    import mtrl_fairgrad

    run = mtrl_fairgrad.train("env=mt10", alpha=2, steps=100_000)
    print(run.evaluations)
    action = mtrl_fairgrad.load_policy(run.path)(observation, task="push-v3")

`train`, `Run`, `load_policy` and `register_network` are names of `mtrl_fairgrad` itself.
"""

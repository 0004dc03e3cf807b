"""The supervised benchmarks: `python -m mtrl_fairgrad.supervised benchmark=digits`.

Each is one file here with a registered `Benchmark`; all files are imported when one is looked for,
so one more file is one more benchmark.
"""

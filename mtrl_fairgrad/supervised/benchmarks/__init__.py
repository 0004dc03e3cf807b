"""The supervised benchmarks: data sets, networks, losses and metrics."""

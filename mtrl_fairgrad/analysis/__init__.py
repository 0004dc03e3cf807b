"""Statistics over runs: success rates, Δm%, run groups, the tables of the paper, and reports."""

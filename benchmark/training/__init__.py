"""Making runs: strategies from configurations, one run, many runs, checkpoints, rehearsals, choices of hyper-parameters."""

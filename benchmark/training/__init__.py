"""Training: strategies from configurations, runs, parallel jobs, checkpoints, rehearsals, hyper-parameter sweeps."""

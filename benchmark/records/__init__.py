"""Records of runs: their schema, the store, their provenance, and the comparison of two runs."""

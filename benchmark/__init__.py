"""Reclaim's benchmark: data streams, recipes, runs, records, statistics, and the check of published numbers.

Importing this package does not import torch.
"""

import warnings

# Avalanche imports qpsolvers, which warns that no solver is installed. Nothing here solves a quadratic program.
warnings.filterwarnings("ignore", message="no QP solver found")

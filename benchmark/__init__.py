"""Reclaim's harness: streams, recipes, runs, records, statistics, and the check of published numbers. Free of torch at import."""

import warnings

# qpsolvers, which Avalanche imports, warns that no solver is installed; nothing here solves a quadratic program.
warnings.filterwarnings("ignore", message="no QP solver found")

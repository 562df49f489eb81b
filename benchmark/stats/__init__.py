"""Statistics of the paper check. Imports numpy and scipy only, nothing else from Reclaim."""

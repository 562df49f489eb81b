"""The statistics of a check: numpy and scipy alone, nothing of Reclaim."""

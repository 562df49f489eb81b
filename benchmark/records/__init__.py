"""Runs on file: what a record holds, the store that keeps it, where it was made, and how two are compared."""

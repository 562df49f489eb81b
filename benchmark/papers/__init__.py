"""What the papers say: numbers, claims, protocols, and where text and code disagree."""

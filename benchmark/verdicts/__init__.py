"""What the runs on record say of claims and published numbers: needs neither training nor pytest."""

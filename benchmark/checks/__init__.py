"""What `pytest benchmark/` runs, and the plugin that brings its options."""

"""From a checkpoint to metrics files."""

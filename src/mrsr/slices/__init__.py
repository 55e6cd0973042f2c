"""From raw volumes to slice stores, and from stores to batches."""

"""A scan of one's own: enhance it, degrade it, score it."""

"""Your own scans: enhance, degrade, score."""

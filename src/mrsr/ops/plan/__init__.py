"""`mrsr plan`: estimate the cost of a target before running it (`estimate.py`)."""

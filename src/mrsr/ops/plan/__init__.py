"""`mrsr plan`: what a target will cost before any of it is spent (`estimate.py`)."""

"""One page about an experiment, in a file that opens by double-click and needs no network."""

"""What a paper shows: figures of an experiment's results, one file per kind."""

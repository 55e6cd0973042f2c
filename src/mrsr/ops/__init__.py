"""Running it elsewhere: clusters, adopted results, plans."""

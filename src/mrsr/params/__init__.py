"""params.yaml, typed: the schema, its loading, one experiment resolved."""

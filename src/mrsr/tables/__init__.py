"""Tables for people: results, notes, network sizes, timings."""

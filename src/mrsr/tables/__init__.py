"""What people look at: tables, notes, sizes, timings."""

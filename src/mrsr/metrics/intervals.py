"""What tables and metrics say alike about intervals; imports nothing."""

FEW = 6  # with fewer subjects an interval means nothing
TOO_SMALL = "n too small"

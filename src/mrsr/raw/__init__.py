"""From a source of scans to data/raw: preparing, downloading, unpacking, file formats."""

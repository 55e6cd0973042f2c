"""`mrsr plan`: what a target will cost before any of it is spent.

`estimate.py` puts it together: the jobs of Snakemake's dry run (`jobs.py`), the seconds of each
from what ran or was measured (`rates.py`, `measure.py`), the bytes (`sizes.py`), as text
(`text.py`).
"""

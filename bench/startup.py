"""What a job spends before its work: its imports beside those of torch, and `mrsr --help`.

Each timing is a Python of its own. The processor time of `compare` is that of this process, so the
wall's is what counts here; on a busy machine take the ratios.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from side_by_side import Row, compare

# (what starts, its floor)
JOBS = {
    "mrsr.training.train_sr": "torch",
    "mrsr.training.train_vit": "torch",
    "mrsr.training.train_autoencoder": "torch",
    "mrsr.metrics.evaluate": "torch",
    "mrsr.slices.slicing": "numpy, h5py",
    "mrsr.tables.tables": "pandas",
}


def rows(small: bool) -> list[Row]:
    """Imports of jobs, and the command's help."""
    chosen = dict([*JOBS.items()][:1]) if small else JOBS
    pairs = [(f"import {job}", _python(f"import {job}"), floor) for job, floor in chosen.items()]
    told = "from mrsr.cli import main; import sys; sys.argv = ['mrsr', '--help']; main()"
    pairs.append(("mrsr --help", _python(told), "typer, rich"))
    rounds = 2 if small else 5
    return [
        compare(
            name, ("mrsr", work), (f"import {floor}", _python(f"import {floor}")), rounds=rounds
        )
        for name, work, floor in pairs
    ]


def _python(program: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)

    return run

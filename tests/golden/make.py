"""Write the golden files anew: `python tests/golden/make.py [name ...]`.

A name is that of a training (its curve), `tables` (runs the smoke experiment), or `checkpoints`.
Without a name: all curves. Make a curve anew only in the commit that means to change it, and say
why in its message. Checkpoints stand for files that earlier versions wrote, which must load for
ever: `checkpoints` makes only those that are missing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, as in the tests
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import trainings

HERE = trainings.HERE


def make(name: str, folder: Path) -> None:
    """Write one curve, all tables, or the missing checkpoints; works in `folder`."""
    if name == "tables":
        for file, content in trainings.tables(folder).items():
            (HERE / "tables" / file).write_bytes(content)
    elif name == "checkpoints":
        for saved in trainings.SAVED:
            if not (trainings.CHECKPOINTS / f"{saved}.pt").exists():
                trainings.save_checkpoint(saved, folder / saved)
    else:
        lines = ",\n".join(map(json.dumps, trainings.curve(name, folder)))
        (HERE / "curves" / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main(names: list[str]) -> None:
    """The command line; see the module's docstring."""
    known = [*trainings.TRAININGS, "tables", "checkpoints"]
    for name in names:
        if name not in known:
            sys.exit(f"make.py: no '{name}'; there are: {', '.join(known)}")
    for name in names or trainings.TRAININGS:
        with tempfile.TemporaryDirectory() as folder:
            make(name, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])

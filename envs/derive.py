"""Derive the lock's final form, conda.yaml and apptainer.def from the pins of requirements.in.

Run by `make lock`, after pip-compile:

    python envs/derive.py --compiled compiled.txt

Without `--compiled` the lock stays as it is and only the other two are written again.

The lock carries no local version (`torch==2.13.0`, not `+cpu`): a machine with CUDA gets the CUDA
build from the same line. It carries no index and no link, so that every site's own settings hold.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ENVS = Path(__file__).resolve().parent
PYTHON = "3.11"

LOCK_HEADER = """\
# Made by `make lock` from requirements.in (Python {python}); do not edit.
# torch carries no +cpu/+cu suffix: pip takes the build that this machine's index offers.
"""

CONDA = """\
# Made by `make lock` from requirements.lock; do not edit.
# UNTESTED: conda was not available where this file was made. Python, git and make come from
# conda-forge, everything else by pip, with the pins of requirements.lock:
#     conda env create -f envs/conda.yaml && conda activate mrsr && pip install --no-deps -e .
# The pins stand here in full, because Snakemake copies this file before it uses it.
name: mrsr
channels:
  - conda-forge
dependencies:
  - python={python}
  - git
  - make
  - pip
  - pip:
{pins}
"""

APPTAINER = """\
# Made by `make lock` from requirements.in; do not edit.
# UNTESTED: Apptainer was not available where this file was made. `tests/fresh/debian.sh bookworm
# container` runs the steps below in a bare Debian. From the project's root:
#     apptainer build mrsr.sif envs/apptainer.def
#     apptainer exec --nv mrsr.sif snakemake --cores 4 all --config experiment=demo
# A container is read-only: data/ and results/ are written where the project is mounted.
Bootstrap: docker
From: python:{python}-slim

%files
    envs/requirements.lock /opt/mrsr/requirements.lock
    pyproject.toml /opt/mrsr/pyproject.toml
    README.md /opt/mrsr/README.md
    LICENSE /opt/mrsr/LICENSE
    src /opt/mrsr/src

%post
    apt-get update
    apt-get install -y --no-install-recommends git make
    rm -rf /var/lib/apt/lists/*
    pip install --no-cache-dir -r /opt/mrsr/requirements.lock
    pip install --no-cache-dir --no-deps --no-build-isolation /opt/mrsr

%environment
    export OMP_NUM_THREADS=1

%labels
{pins}

%runscript
    exec mrsr "$@"
"""


def pins(path: Path) -> dict[str, str]:
    """Name -> version of every `name==version` line, names as pip compares them."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)", line)
        if match:
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def lock_text(compiled: str) -> str:
    """The lock as it is committed: pins only, no local versions, no index options."""
    lines = []
    for line in compiled.splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            lines.append(re.sub(r"(==[^\s;#+]+)\+\S+", r"\1", line).rstrip())
    return LOCK_HEADER.format(python=PYTHON) + "\n".join(lines) + "\n"


def main() -> None:
    """Write what is asked for, into envs/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", type=Path, help="pip-compile's output")
    compiled = parser.parse_args().compiled
    if compiled:
        text = lock_text(compiled.read_text(encoding="utf-8"))
        (ENVS / "requirements.lock").write_text(text, encoding="utf-8")
    wanted = pins(ENVS / "requirements.in")
    locked = pins(ENVS / "requirements.lock")
    conda = "\n".join(f"      - {name}=={version}" for name, version in locked.items())
    labels = "\n".join(f"    {name} {version}" for name, version in wanted.items())
    (ENVS / "conda.yaml").write_text(CONDA.format(python=PYTHON, pins=conda), encoding="utf-8")
    (ENVS / "apptainer.def").write_text(
        APPTAINER.format(python=PYTHON, pins=labels), encoding="utf-8"
    )


if __name__ == "__main__":
    main()

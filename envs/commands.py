"""Let the commands in .venv/bin work whatever the path of the clone: run by `make venv`.

    python envs/commands.py .venv/bin

Where the path has a space or is long, pip writes a command as text for the shell, with the path in
double quotes: `$`, a backtick or a quote in it then ends as another path. The line is replaced by
one that finds Python beside the command.
"""

from __future__ import annotations

import sys
from pathlib import Path

START = b"#!/bin/sh\n'''exec' "
OWN = START + b'"$(dirname -- "$0")/python" "$0" "$@"\n'


def main(folder: Path) -> None:
    """Rewrite the second line of every command that pip wrote for the shell."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if content.startswith(START):
                rest = content.split(b"\n", 2)[2]
                file.write_bytes(OWN + rest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

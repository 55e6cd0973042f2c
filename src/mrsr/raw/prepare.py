"""raw: bring one source's volumes to data/raw/<source>/ and list what lies there.

By hand: `mrsr raw phantom --settings '{}' --out data/raw/phantom/manifest.csv`
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import ModuleType, SimpleNamespace

from mrsr.errors import UserError
from mrsr.files import sha256, write_text
from mrsr.raw.volume import Brought


def prepare(source: ModuleType, settings: SimpleNamespace, manifest: Path) -> Brought:
    """Download or make a source, verify it, and write its manifest last.

    Args:
        source: its module, one of mrsr/datasets.
        settings: its settings, complete.
        manifest: data/raw/<source>/manifest.csv; the volumes go beside it. Its columns: path
            (relative), bytes, sha256.

    Returns:
        What was found: the source's own count, or all files that lie there.

    Raises:
        UserError: the source cannot be had, or nothing came of it.
    """
    folder = manifest.parent
    folder.mkdir(parents=True, exist_ok=True)
    brought: Brought | None = source.prepare(folder, settings)
    if brought is None:  # it says nothing: what lies there is what it brought
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and path != manifest and not path.name.startswith(".")
        )
        brought = Brought(files=found, used=len(found))
    files = sorted(brought.files)
    if not files:
        name = source.__name__.rpartition(".")[2]
        raise UserError(f"source '{name}': no files came to {folder}; check data.sources.{name}")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "bytes", "sha256"])
    for path in files:
        writer.writerow([path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)])
    write_text(manifest, table.getvalue())
    return brought

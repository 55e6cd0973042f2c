"""The end of `make demo`: what its table means, in one sentence, its page, and what to try next.

The sentence is chosen by the numbers of results.csv. Other numbers make another sentence.

By hand: python -m mrsr.tables.demo_end --tables results/demo/tables
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from mrsr.errors import UserError, guarded

# dB between trainings of one method; docs/results.md (`demo`): methods with a pixel loss changed by
# up to 0.4 dB between versions of the code. Smaller differences need more than one training.
ONE_TRAINING = 0.4
# the same generator as SRResNet here, with a pixel loss and feature terms
FEATURES = ("proposed", "no_structure", "no_texture", "vit_only", "no_vit")
MODEL = "results/demo/checkpoints/phantom_t1/x2/srresnet/best.pt"
SCAN = "data/raw/phantom/T1/SIM001-Phantom-0001-T1.nii.gz"


def meaning(psnr: Mapping[str, float]) -> str:
    """What the PSNR of a table's methods shows, as one sentence.

    Args:
        psnr: mean PSNR (dB) by method (key in params.yaml), of one dataset and scale.

    Returns:
        The sentence; empty where bicubic or SRResNet is missing, so that nothing can be compared.
    """
    if "bicubic" not in psnr or "srresnet" not in psnr:
        return ""
    bicubic, pixel = psnr["bicubic"], psnr["srresnet"]
    parts = [_pixel(pixel - bicubic)]
    differences = [psnr[method] - pixel for method in FEATURES if method in psnr]
    if differences:
        parts.append(_features(differences))
    if "proposed_eq9" in psnr:
        parts.append(_published(psnr["proposed_eq9"] - bicubic))
    return "; ".join(parts) + "."


def _pixel(gain: float) -> str:
    """SRResNet, trained by a pixel loss alone, beside bicubic."""
    if gain > ONE_TRAINING:
        return f"The pixel loss does the work: alone (SRResNet) it gains {gain:.2f} dB over bicubic"
    if gain < -ONE_TRAINING:
        return (
            f"The pixel loss alone (SRResNet) stays {-gain:.2f} dB below bicubic: "
            "the training is too short"
        )
    return f"The pixel loss alone (SRResNet) does not differ from bicubic ({gain:+.2f} dB)"


def _features(differences: list[float]) -> str:
    """The same generator with the feature terms, beside the pixel loss alone."""
    low, high = min(differences), max(differences)
    span = f"{low:+.2f} to {high:+.2f} dB" if len(differences) > 1 else f"{low:+.2f} dB"
    if max(abs(low), abs(high)) <= ONE_TRAINING:
        return (
            f"the feature terms change nothing that one training could show ({span}, "
            f"and trainings differ by up to {ONE_TRAINING} dB)"
        )
    if low < -ONE_TRAINING and high > ONE_TRAINING:
        return f"the feature terms help or harm, depending on the method ({span})"
    return f"the feature terms {'raise' if high > ONE_TRAINING else 'lower'} PSNR ({span})"


def _published(gain: float) -> str:
    """The paper's Eq. 9, which has no pixel term, beside bicubic."""
    start = "the published objective alone (Eq. 9, no pixel term)"
    if gain < -ONE_TRAINING:
        return f"{start} cannot reconstruct: it ends {-gain:.1f} dB below bicubic"
    if gain > ONE_TRAINING:
        return f"{start} reconstructs too: it gains {gain:.2f} dB over bicubic"
    return f"{start} does not differ from bicubic ({gain:+.2f} dB)"


def column(rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """PSNR by method of the dataset and scale with the most methods; the first of several."""
    columns: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        methods = columns.setdefault((row["dataset"], row["scale"]), {})
        methods[row["method"]] = float(row["psnr"])
    return max(columns.values(), key=len, default={})


def ending(tables: Path) -> str:
    """The sentence, the page and the two commands, from the results.csv in folder `tables`.

    Raises:
        UserError: there is no results.csv.
    """
    file = Path(tables) / "results.csv"
    if not file.is_file():
        raise UserError(f"{file} does not exist; run `make demo`")
    with open(file, encoding="utf-8", newline="") as text:
        sentence = meaning(column(csv.DictReader(text)))
    page = Path(tables).parent / "report.html"
    if page.is_file():
        shown = f"Tables, images, figures and curves in one page; open it in a browser: {page}"
    else:
        shown = f"There is no page {page}; `mrsr report` writes it."
    return f"""{sentence}

{shown}

Try next, after `source .venv/bin/activate`: enhance a scan, or train on real scans (a download).
  mrsr enhance {SCAN} finer.nii.gz --model {MODEL}
  snakemake --logger mrsr --cores 2 all --config experiment=openms
"""


@guarded
def main() -> None:
    """Print the ending."""
    parser = argparse.ArgumentParser(description="Print what the demo's table means.")
    parser.add_argument("--tables", type=Path, required=True, help="Folder of results.csv.")
    print(ending(parser.parse_args().tables), end="")


if __name__ == "__main__":
    main()

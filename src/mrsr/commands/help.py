"""What `mrsr --help` shows: the panels of commands, their order, and examples for each command."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

# panel -> command -> examples; panels and commands are listed in this order
PANELS = {
    "Your own scans": {
        "enhance": [
            "mrsr enhance scan.nii.gz",
            "mrsr enhance scan.nii.gz finer.nii.gz --model best.pt",
            "mrsr enhance dicom_folder --series 5",
            "mrsr enhance dataset --bids",
            "mrsr enhance scan.nii.gz plain.nii.gz --model bicubic --scale 2",
            "mrsr enhance t2.nii.gz finer.nii.gz --model best.pt --guide t1.nii.gz",
        ],
        "degrade": [
            "mrsr degrade scan.nii.gz coarse.nii.gz --scale 2",
            "mrsr degrade scan.nii.gz coarse.nii.gz --scale 4 --kind kspace",
        ],
        "score": ["mrsr score finer.nii.gz reference.nii.gz --preset slice"],
        "view": [
            "mrsr view scan.nii.gz finer.nii.gz",
            "mrsr view scan.nii.gz plain.nii.gz finer.nii.gz --save page.html",
        ],
        "export": [
            "mrsr export best.pt network.onnx",
            "mrsr export x4 --to bundle",
            "mrsr export best.pt --to mlflow --name finer_t1",
        ],
    },
    "An experiment": {
        "experiments": ["mrsr experiments", "mrsr experiments mine.yaml --json"],
        "params": ["mrsr params --experiment demo", "mrsr params -e demo --json"],
        "methods": ["mrsr methods --scale 4", "mrsr methods --experiment demo --all"],
        "plan": [
            "mrsr plan all --experiment demo --cores 2",
            "mrsr plan metrics --experiment paper --device A100 --jobs 20",
        ],
        "resume": ["mrsr resume", "mrsr resume -- --cores 4 all --config experiment=demo"],
        "tables": [
            "mrsr tables --experiment demo --print",
            "mrsr tables --experiment demo --document",
            "mrsr tables --experiment demo --from-mlflow --out tables",
        ],
        "compare": [
            "mrsr compare demo mine",
            "mrsr compare results/demo/metrics/phantom_t1/x2/proposed.json"
            " results/demo/metrics/phantom_t1/x2/srresnet.json",
        ],
        "pretext-table": [
            "mrsr pretext-table results/pretexts_0/checkpoints/vit/organ --out tables",
        ],
        "curves": [
            "mrsr curves results/demo/checkpoints/vit/organ/log.jsonl --out curves.png",
        ],
        "figures": ["mrsr figures --experiment demo"],
        "report": ["mrsr report --experiment demo"],
        "timings": ["mrsr timings", "mrsr timings --experiment demo --threads 1"],
        "sync": ["mrsr sync --experiment demo"],
        "track": ["mrsr track"],
        "adopt": ["mrsr adopt --experiment demo"],
        "pack": ["mrsr pack --experiment best --other spine.nii.gz"],
        "schema": ["mrsr schema"],
    },
    "Inside the workflow": {
        "raw": ["mrsr raw phantom", "mrsr raw openms --workers 4"],
        "slices": [
            "mrsr slices data/raw/phantom/manifest.csv --settings @slices.json --out slices",
        ],
        "guides": [
            "mrsr guides data/raw/openms/manifest.csv --settings @guide.json"
            " --slices slices --out guides",
        ],
        "tracking-init": ["mrsr tracking-init --settings @tracking.json --out tracking.ready"],
        "examples": [
            "mrsr examples --settings @examples.json --slices test.h5 --out examples.npz",
        ],
        "frozen": ["mrsr frozen results/demo/checkpoints/vit/organ --out tables"],
    },
}


class Panels(TyperGroup):
    """The commands of `PANELS`, in its order, with its examples below the options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for panel, commands in PANELS.items():
            for name, examples in commands.items():
                if name in self.commands:
                    command: Any = self.commands[name]
                    command.rich_help_panel = panel
                    command.epilog = "\n".join(["[bold]Examples[/]", *examples])

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Names in the order of the panels; what is in none comes last."""
        order = [name for commands in PANELS.values() for name in commands]
        return sorted(self.commands, key=lambda n: order.index(n) if n in order else len(order))

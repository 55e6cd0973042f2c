"""The figures and the page of an experiment: their names, and the settings of their jobs.

A figure's name begins with the paper's figure that it answers, where there is one: Fig. 2 compares
methods, Fig. 3 (2x) and Fig. 4 (other scales) show ablations on brains, Fig. 5 those on knees, and
Fig. 7 the losses. The figures of a dataset and scale end in both: `fig2_comparison_openms_t1_2x`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mrsr.params import jobs
from mrsr.params.experiment import Resolved
from mrsr.params.repeats import origin

FORMATS = ("pdf", "png")
LOSSES = "fig7_losses"
# in the order of the page
KINDS = ("comparison", "ablation", "losses", "parameters", "seconds", "differences", "slices",
         "spectra")  # fmt: skip
_ORDER = ("proposed", "no_texture", "no_structure", "no_vit", "vit_only")
_BESIDE = {
    "psnr_parameters": "parameters",
    "psnr_seconds": "seconds",
    "paired_differences": "differences",
    "psnr_by_slice": "slices",
    "residual_spectra": "spectra",
}


def kind(figure: str) -> str:
    """One of KINDS, by the name of a figure."""
    if figure == LOSSES:
        return "losses"
    for start, found in _BESIDE.items():
        if figure.startswith(f"{start}_"):
            return found
    return figure.partition("_")[2].partition("_")[0]


def of_column(figures: Iterable[str], column: jobs.Column) -> list[str]:
    """Those of these figures that show this dataset and scale."""
    end = f"_{column.name}_{column.scale}x"
    starts = {*_BESIDE, "fig2_comparison", *(f"fig{number}_ablation" for number in (3, 4, 5))}
    return [name for name in figures if name.endswith(end) and name.removesuffix(end) in starts]


def caption(figure: str) -> Path:
    """The file with a figure's caption, for the page and for Snakemake's report."""
    return Path(__file__).parents[1] / "figures" / "captions" / f"{kind(figure)}.rst"


def caption_text(figure: str) -> str:
    """A figure's caption as plain text; empty for a figure that is none of ours."""
    file = caption(figure)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return " ".join(text.replace("``", "").split())


def columns(resolved: Resolved) -> list[jobs.Column]:
    """The datasets and scales that figures show: of a dataset's folds and seeds, the first."""
    found: dict[tuple[str, int], str] = {}
    for cell in resolved.cells:
        found.setdefault((origin(cell.dataset).dataset, cell.scale), cell.dataset)
    order = list(resolved.methods)
    return [
        jobs.Column(
            dataset=dataset,
            name=name,
            label=resolved.params.data.datasets[name].label or name,
            scale=scale,
            methods=tuple(
                sorted(
                    (c.method for c in resolved.cells if (c.dataset, c.scale) == (dataset, scale)),
                    key=order.index,
                )
            ),
        )
        for (name, scale), dataset in found.items()
    ]


def compared(methods: tuple[str, ...], kinds: dict[str, str]) -> list[str]:
    """The methods of Fig. 2: those to compare with, then `proposed`. kinds: by method."""
    found = [key for key in methods if kinds[key] in ("baseline", "added")]
    return [*found, *(["proposed"] if "proposed" in methods else [])]


def ablations(methods: tuple[str, ...], kinds: dict[str, str]) -> list[str]:
    """The methods of Fig. 3 to 5, in the paper's order; without any ablation there is no figure."""
    found = [key for key in methods if kinds[key] == "ablation"]
    if not found:
        return []
    found += [key for key in ("proposed",) if key in methods]
    return sorted(found, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))


def main_method(methods: tuple[str, ...]) -> str:
    """The row that a column is about: `proposed`, or else the last one."""
    return "proposed" if "proposed" in methods else methods[-1]


def names(resolved: Resolved) -> list[str]:
    """The names of all figures, without suffix."""
    found = []
    for column in columns(resolved):
        kinds = {key: str(resolved.methods[key].kind) for key in column.methods}
        end = f"{column.name}_{column.scale}x"
        if compared(column.methods, kinds):
            found.append(f"fig2_comparison_{end}")
        if ablations(column.methods, kinds):
            organ = resolved.params.data.datasets[column.name].organ
            number = 5 if organ == "knee" else 3 if column.scale == 2 else 4
            found.append(f"fig{number}_ablation_{end}")
        found += [f"{start}_{end}" for start in _BESIDE]
    return [*found, *([LOSSES] if losses(resolved) else [])]


def losses(resolved: Resolved) -> tuple[str, ...]:
    """The trainings of Fig. 7: (a) the vision transformer's fine-tuning, (b) super-resolution."""
    found = [f"vit/{resolved.params.vit.pretext}"] if resolved.pool else []
    for column in columns(resolved):
        trained = tuple(key for key in column.methods if resolved.methods[key].trained)
        if trained:
            home, key = resolved.methods[main_method(trained)].home(column.dataset)
            found.append(f"{home}/x{column.scale}/{key}")
    return tuple(dict.fromkeys(found))


def examples(resolved: Resolved, column: jobs.Column) -> jobs.Examples:
    """Settings of the example images of a dataset and scale."""
    return jobs.Examples(
        dataset=column.dataset,
        scale=column.scale,
        slice=resolved.params.figures.slices.get(column.name, ""),
        cells=tuple(
            resolved.evaluation(column.dataset, column.scale, key) for key in column.methods
        ),
        trainings={
            key: "{0}/x{2}/{1}".format(*resolved.methods[key].home(column.dataset), column.scale)
            for key in column.methods
            if resolved.methods[key].trained
        },
    )


def figures(resolved: Resolved) -> jobs.Figures:
    """Settings of the figures."""
    return jobs.Figures(
        experiment=resolved.name,
        figures=tuple(names(resolved)),
        columns=tuple(columns(resolved)),
        methods=resolved.tables().methods,
        losses=losses(resolved),
    )


def trainings(resolved: Resolved) -> list[str]:
    """The folders of all trainings, below checkpoints/."""
    found = [f"{cell.dataset}/x{cell.scale}/{cell.method}" for cell in resolved.trainings()]
    found += [f"{dataset}/x{scale}/autoencoder" for dataset, scale in resolved.autoencoders()]
    phases = ("segmentation", *resolved.pretexts) if resolved.pool else ()
    return [*found, *(f"vit/{phase}" for phase in phases)]


def report(resolved: Resolved) -> jobs.Report:
    """Settings of the page."""
    return jobs.Report(
        experiment=resolved.name,
        description=resolved.experiment.description,
        about=resolved.experiment.about,
        figures=figures(resolved),
        tables=resolved.tables(),
        trainings=tuple(trainings(resolved)),
        sources={name: resolved.params.data.datasets[name].source for name in resolved.datasets},
        command=f"snakemake --cores 2 all --config experiment={resolved.name}",
    )

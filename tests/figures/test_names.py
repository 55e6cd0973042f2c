"""Each figure of the paper has a counterpart, named so. Run: pytest tests/figures/test_names.py"""

from __future__ import annotations

from typing import Any

import pytest

from mrsr.params import figures, loading
from project import ROOT


def names(experiment: str) -> list[str]:
    return figures.names(loading.load(ROOT / "params.yaml", experiment))


def test_every_figure_of_the_paper_has_its_counterpart() -> None:
    found = names("paper")
    for dataset in ("ixi_t1", "ixi_t2", "ixi_pd"):
        assert f"fig2_comparison_{dataset}_2x" in found
        assert f"fig3_ablation_{dataset}_2x" in found
        assert f"fig4_ablation_{dataset}_4x" in found
    assert {"fig5_ablation_fastmri_2x", "fig5_ablation_fastmri_4x", "fig7_losses"} <= {*found}
    assert len(found) == len(set(found))


def test_names_tell_kind_and_column() -> None:
    resolved = loading.load(ROOT / "params.yaml", "openms_ablation")
    (column,) = figures.columns(resolved)
    found = figures.names(resolved)
    assert figures.of_column(found, column) == [name for name in found if name != figures.LOSSES]
    assert {figures.kind(name) for name in found} == {*figures.KINDS}
    for name in found:
        assert figures.caption(name).read_text(encoding="utf-8").strip(), name


def test_a_dataset_whose_name_ends_like_another_s_is_another() -> None:
    resolved = loading.load(ROOT / "params.yaml", "openms_ablation")
    (column,) = figures.columns(resolved)
    other = "fig2_comparison_my_openms_t1_2x"
    assert figures.of_column([other], column) == []


@pytest.mark.parametrize(
    ("methods", "kinds", "compared", "ablations"),
    [
        (
            ("bicubic", "proposed", "eq9", "vit_only", "no_texture"),
            {"bicubic": "baseline", "proposed": "proposed", "eq9": "proposed",
             "vit_only": "ablation", "no_texture": "ablation"},
            ["bicubic", "proposed"],
            ["proposed", "no_texture", "vit_only"],
        ),
        (("bicubic", "mine"), {"bicubic": "baseline", "mine": "added"}, ["bicubic", "mine"], []),
    ],
)  # fmt: skip
def test_which_methods_a_figure_shows(
    methods: tuple[str, ...], kinds: dict[str, str], compared: list[str], ablations: list[str]
) -> None:
    assert figures.compared(methods, kinds) == compared
    assert figures.ablations(methods, kinds) == ablations


def test_the_first_fold_and_seed_stand_for_all(tmp_path: Any) -> None:
    resolved = loading.load(ROOT / "params.yaml", "study")
    for column in figures.columns(resolved):
        assert column.dataset.startswith(column.name)
    assert len({(c.name, c.scale) for c in figures.columns(resolved)}) == len(
        figures.columns(resolved)
    )


def test_without_proposed_the_last_row_decides() -> None:
    assert figures.main_method(("bicubic", "proposed", "vdsr")) == "proposed"
    assert figures.main_method(("bicubic", "vdsr")) == "vdsr"

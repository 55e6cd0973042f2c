"""Nothing changed: curves, checkpoints and tables are those of the committed golden files.

Run: `pytest tests/golden`, and `pytest -m slow tests/golden` for the tables (minutes).
`python tests/golden/make.py NAME` writes a golden file anew, where a change of numbers is meant.

Curves hold every metric of a training's log but its rates. A value may differ by 1e-6 of itself,
and by 1e-9 where it is tiny (cosine distances). Measured: noise of 1e-7 on every pixel moves most
metrics by 1e-8 to 1e-7 of their value, gradient norms of the auto-encoder by 5e-7, and the feature
terms of `proposed` by 8e-7, which is 1e-12. The float32 of `srresnet_fp32` moves by 3e-7 with
another number of threads, memory layout or library of convolutions.

Two numbers in golden.yaml were chosen for that. A bias before batch norm has no gradient but
rounding. With coupled decay Adam multiplies it in each step by up to rate * decay / epsilon (10,000
at 1e-3 and 0.1), until it is as large as the rate and has a random sign. Training does not see it,
validation does: its PSNR moved by 7 %. So `proposed_eq9` has a rate of 1e-4, a decay of 1e-3 and
six steps. RMSprop starts with steps of ten times the rate, along the gradient's sign: the rate of
`srcnn_other_options` is 1e-5.

Tables are compared byte for byte but for their decimal numbers, with the column `seconds_per_slice`
of results.csv empty. A number may differ by 1e-6 of itself, and by one in its fourth or a later
decimal if that is its last: on another processor it may be rounded the other way.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainings

RELATIVE, ABSOLUTE = 1e-6, 1e-9


def differences(found: list[dict[str, Any]], golden: list[dict[str, Any]]) -> list[str]:
    """What differs between two curves, a line for each."""
    lines = [[(line["step"], line["split"]) for line in one] for one in (found, golden)]
    if lines[0] != lines[1]:
        return [f"other lines: {lines[0]}, not {lines[1]}"]
    told = []
    for one, other in zip(found, golden, strict=True):
        where, (ours, theirs) = (
            f"step {one['step']} {one['split']}",
            (one["metrics"], other["metrics"]),
        )
        if ours.keys() != theirs.keys():
            told.append(f"{where}: other metrics: {sorted(ours)}, not {sorted(theirs)}")
            continue
        for name, value in theirs.items():
            if not abs(ours[name] - value) <= RELATIVE * abs(value) + ABSOLUTE:
                told.append(f"{where}: {name} is {ours[name]!r}, not {value!r}")
    return told


DECIMAL = re.compile(r"\d+\.\d+")


def table_differences(found: str, golden: str) -> list[str]:
    """What differs between two texts with numbers in them, a line for each."""
    told = []
    for ours, theirs in zip(found.splitlines(), golden.splitlines(), strict=False):
        pairs = list(zip(DECIMAL.findall(ours), DECIMAL.findall(theirs), strict=False))
        if DECIMAL.sub("#", ours) != DECIMAL.sub("#", theirs) or not all(near(*p) for p in pairs):
            told.append(f"{ours!r}, not {theirs!r}")
    counts = [text.count("\n") for text in (found, golden)]
    return told if counts[0] == counts[1] else [*told, f"{counts[0]} lines, not {counts[1]}"]


def near(one: str, other: str) -> bool:
    """Whether two numbers are the same but for rounding; see the module's docstring."""
    places = [len(text.partition(".")[2]) for text in (one, other)]
    last = 10.0 ** -max(places) if max(places) >= 4 else 0.0
    return abs(float(one) - float(other)) <= max(RELATIVE * float(other), 1.01 * last)


def golden_curve(name: str) -> list[dict[str, Any]]:
    return json.loads((trainings.HERE / "curves" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", trainings.TRAININGS)
def test_a_training_has_its_golden_curve(name: str, tmp_path: Path) -> None:
    assert not differences(trainings.curve(name, tmp_path), golden_curve(name))


def test_every_golden_curve_is_of_a_training() -> None:
    files = {path.stem for path in (trainings.HERE / "curves").glob("*.json")}
    assert files == set(trainings.TRAININGS)


def test_a_changed_curve_is_noticed() -> None:
    golden = golden_curve("proposed")
    assert not differences(copy.deepcopy(golden), golden)
    changed = copy.deepcopy(golden)
    changed[3]["metrics"]["gradient/vit"] *= 1 + 1e-5
    (told,) = differences(changed, golden)
    assert told.startswith("step 4 train: gradient/vit is")
    del changed[3]["metrics"]["gradient/vit"]
    assert "other metrics" in differences(changed, golden)[0]
    assert "other lines" in differences(golden[1:], golden)[0]


@pytest.mark.parametrize("name", trainings.SAVED)
def test_a_checkpoint_of_an_earlier_version_gives_its_golden_output(name: str) -> None:
    found = trainings.outputs(name)
    with np.load(trainings.CHECKPOINTS / f"{name}.npz") as golden:
        assert set(found) == set(golden)
        for key in golden:
            np.testing.assert_allclose(found[key], golden[key], rtol=1e-6, atol=1e-6, err_msg=key)


def test_the_golden_checkpoints_stay_small() -> None:
    assert sum(path.stat().st_size for path in trainings.CHECKPOINTS.iterdir()) < 300_000


def test_a_changed_table_is_noticed_and_another_rounding_is_not() -> None:
    line = "a,x2,28.248414,0.8169,33.42,0.8,2\n"
    for same in (line, line.replace("8414", "8415"), line.replace("8169", "817")):
        assert not table_differences(same, line)
    for other in (
        *(line.replace("8414", "8450"), line.replace("8169", "8171"), line.replace("0.8,", "0.9,")),
        *(line.replace("33.42", "33.43"), line.replace(",2\n", ",3\n"), line.replace("a,", "b,")),
        *(line + line, line.replace("0.8,", "1,"), line.replace(",0.8", "")),
    ):
        assert table_differences(other, line), other


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_smoke_experiment_has_its_golden_tables(smoke: Path) -> None:
    for name, content in trainings.read_tables(smoke / "results" / "smoke").items():
        golden = (trainings.HERE / "tables" / name).read_bytes()
        assert not table_differences(content.decode(), golden.decode()), name

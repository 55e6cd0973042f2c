"""Evaluation on tiny stores, against values by hand: `pytest tests/metrics/test_evaluate.py`."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import evaluation, preset, read, save, write_store
from mrsr import checkpoint
from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.metrics import definitions, evaluate, more
from mrsr.metrics.record import BOOTSTRAP, bootstrap
from mrsr.params import schema
from mrsr.params.jobs import Evaluation
from mrsr.params.typed import digest
from mrsr.resampling import bicubic, degrade, pad_to

SRCNN = {"method": "srcnn", "model": {"name": "srcnn", "options": {"features": [4, 2]}}}
TRAINING = {"dataset": "toy", "scale": 2, "method": "srcnn", "degradation": "bicubic"}
# odd sizes, so that the padded and the measured area differ
VOLUMES = [("a", "1", (3, 25, 30)), ("a", "2", (2, 25, 31)), ("b", "", (4, 28, 28))]


def settings(**changes: object) -> Evaluation:
    return read(Evaluation, evaluation(**changes))


def store(path: Path, volumes: list[tuple[str, str, tuple[int, ...]]] = VOLUMES) -> list:
    """A slice store; returns (subject, normalised volume) pairs. The first slice has no signal."""
    rng = np.random.default_rng(0)
    stored, each = [], []
    for number, (subject, visit, shape) in enumerate(volumes):
        coarse = torch.from_numpy(rng.random((shape[0], 9, 9)))
        data = (1000 * bicubic(coarse, shape[1:]).clamp(0).numpy()).astype(np.int16)
        data = data + rng.integers(0, 40 * (number + 1), shape).astype(np.int16)
        if number == 0:
            data[0] = 0
        stored.append(data)
        each.append({
            "subject": subject, "visit": visit, "path": f"{subject}{visit}.nii.gz", "slope": 0.5,
            "scale": 400.0, "slice_index": 10 + np.arange(shape[0]),
        })  # fmt: skip
    write_store(path, stored, each=each)
    return [
        (about["subject"], data.astype(np.float32) * 0.5 / 400)
        for about, data in zip(each, stored, strict=True)
    ]


def by_hand(images: list, name: str = "slice") -> dict[str, list[dict[str, float]]]:
    """Bicubic's metrics of each slice with signal, or of each volume, by subject."""
    chosen, result = preset(name), {}
    for subject, image in images:
        padded, (height, width) = pad_to(torch.from_numpy(image), 2)
        lr = degrade(padded, 2, "bicubic")
        sr = bicubic(lr, padded.shape[-2:])[..., :height, :width].numpy()
        if chosen.level == "volume":
            result.setdefault(subject, []).append(definitions.score(sr, image, chosen))
            continue
        for p, r in zip(sr, image, strict=True):
            if r.max() > 0:
                value = definitions.score(p[None], r[None], chosen)
                result.setdefault(subject, []).append(value)
    return result


def train(path: Path, **changes: object) -> Path:
    given = {**TRAINING, "steps": 7, "batch": 3, **changes}
    options, scale = SRCNN["model"]["options"], given["scale"]
    provenance = {"commit": "abc"}
    return save(path, "srcnn", options, scale=scale, settings=given, provenance=provenance)


@pytest.mark.parametrize("name", list(schema.PRESETS))
def test_averages_go_from_slices_to_subjects(tmp_path, name):
    images, chosen = store(tmp_path / "test.h5"), preset(name)
    out = tmp_path / "metrics" / "bicubic.json"
    record = evaluate.evaluate(
        settings(preset=dataclasses.asdict(chosen)), tmp_path / "test.h5", out
    )
    expected = by_hand(images, name)
    for metric in definitions.METRICS:
        subjects = [np.mean([value[metric] for value in values]) for values in expected.values()]
        assert record[metric]["mean"] == pytest.approx(np.mean(subjects), abs=1e-6)
        assert (record[metric]["low"], record[metric]["high"]) == (None, None)
    assert json.loads(out.read_text(encoding="utf-8")) == record
    assert record["interval"] == "n too small"
    assert record["subjects"] == ["a", "b"] and record["n_subjects"] == 2
    assert record["n_slices"] == (8 if name == "slice" else 9)
    assert record["slices_without_signal"] == 1
    assert bool(record["left_out"]) == (name == "slice")
    assert record["conventions"] == definitions.describe(chosen)


def test_labels_and_slices_lie_beside(tmp_path):
    images = store(tmp_path / "test.h5")
    out = tmp_path / "bicubic.json"
    record = evaluate.evaluate(settings(), tmp_path / "test.h5", out)
    for key in ("experiment", "dataset", "scale", "method", "label", "degradation"):
        assert record[key] == evaluation()[key]
    assert record["preset"]["window_size"] == 11
    assert record["settings_digest"] == digest(settings())
    assert record["parameters"] == 0 and record["split"] == "test"
    assert record["steps"] is record["patches"] is record["checkpoint_sha256"] is None
    assert 0 < record["seconds_per_slice"] < 5

    with open(out.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert list(rows[0]) == ["subject", "visit", "volume", "slice_index", "psnr", "ssim", "nmse"]
    assert rows[0]["psnr"] == "" and rows[0]["slice_index"] == "10"
    expected = by_hand(images)["b"]
    got = [float(row["psnr"]) for row in rows if row["subject"] == "b"]
    assert got == pytest.approx([value["psnr"] for value in expected], abs=1e-5)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.glob("*bicubic*")) == [
        "bicubic.csv", "bicubic.json", "bicubic.png",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["slice", "volume"])
def test_more_metrics_are_of_slices_whatever_the_preset(tmp_path, name):
    images = store(tmp_path / "test.h5", [("a", "", (2, 40, 40)), ("b", "", (3, 40, 44))])
    chosen, wanted = preset(name), ("haarpsi", "hfen")
    record = evaluate.evaluate(
        settings(preset=dataclasses.asdict(chosen), more=wanted),
        tmp_path / "test.h5",
        tmp_path / "bicubic.json",
    )
    assert record["more"] == ["haarpsi", "hfen"]
    means = []
    for _, image in images:
        padded, (height, width) = pad_to(torch.from_numpy(image), 2)
        sr = bicubic(degrade(padded, 2, "bicubic"), padded.shape[-2:])[..., :height, :width]
        values = more.per_slice(sr.numpy(), image, chosen, wanted)
        means.append({key: definitions.mean(each) for key, each in values.items()})
    for key in wanted:
        expected = np.mean([of_subject[key] for of_subject in means])
        assert record[key]["mean"] == pytest.approx(expected, abs=1e-4)
    head = (tmp_path / "bicubic.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.endswith("psnr,ssim,nmse,haarpsi,hfen")


def test_interval_from_six_subjects_on(tmp_path):
    store(tmp_path / "test.h5", [(f"s{i}", "", (2, 24, 24)) for i in range(6)])
    first, second = (
        evaluate.evaluate(settings(batch=batch), tmp_path / "test.h5", tmp_path / "x.json")
        for batch in (2, 1)
    )
    for name in definitions.METRICS:
        assert first[name]["low"] < first[name]["mean"] < first[name]["high"]
        assert first[name] == pytest.approx(second[name])  # seeded
    assert first["interval"] == BOOTSTRAP


def test_real_scans_give_the_known_bicubic_scores(mirror):
    """Central 32 slices of patient 12, T1W at 2x: 31.9 and 32.1 dB, measured independently."""
    from mrsr.raw.nifti import read_nifti

    for study, expected in ((1, 31.9), (2, 32.1)):
        path = mirror / f"open_ms_data/longitudinal/raw/patient12/study{study}_T1W.nii.gz"
        image = read_nifti(path, subject="12", contrast="T1", organ="brain").image[8:-8]
        lr = degrade(torch.from_numpy(image), 2, "bicubic")
        sr = bicubic(lr, image.shape[1:]).numpy()
        score = definitions.score(sr, image, preset("slice"))
        assert score["psnr"] == pytest.approx(expected, abs=0.06)


def test_bootstrap_covers_the_mean():
    """Of 95 % intervals of 40 normal values, about 93 to 95 % hold the true mean."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        low, high = bootstrap(30 + 2 * rng.standard_normal(40), 400, seed)
        held += low < 30 < high
    assert 0.88 < held / 200 < 0.99


def test_checkpoint_is_named_and_counted(tmp_path):
    store(tmp_path / "test.h5")
    best = train(tmp_path / "best.pt")
    record = evaluate.evaluate(
        settings(**SRCNN), tmp_path / "test.h5", tmp_path / "srcnn.json", best
    )
    assert (record["steps"], record["patches"], record["commit"]) == (7, 21, "abc")
    assert record["checkpoint_sha256"] == sha256(best)
    assert record["parameters"] == 81 * 4 + 4 + 4 * 2 + 2 + 25 * 2 + 1
    assert record["training_digest"] == digest({**TRAINING, "steps": 7, "batch": 3})


@pytest.mark.parametrize(
    ("training", "asked", "message"),
    [
        ({"dataset": "other"}, {}, "dataset other"),
        ({"degradation": "kspace"}, {}, "degradation kspace"),
        ({"method": "srresnet"}, {}, "method srresnet"),
        ({"scale": 4}, {}, "scale 4"),
        ({}, {"scale": 4}, "scale 2.*asks for 4"),
        ({}, {"model": {"name": "srresnet", "options": {}}}, "model srcnn"),
    ],
)
def test_checkpoint_of_another_cell_is_refused(tmp_path, training, asked, message):
    store(tmp_path / "test.h5")
    best = train(tmp_path / "best.pt", **training)
    out = tmp_path / "out" / "x.json"
    with pytest.raises(UserError, match=message):
        evaluate.evaluate(settings(**{**SRCNN, **asked}), tmp_path / "test.h5", out, best)
    assert not out.parent.exists()


def test_a_method_trained_on_one_dataset_is_measured_on_others(tmp_path):
    store(tmp_path / "test.h5")
    best = train(tmp_path / "best.pt", dataset="all", degradation="kspace")
    asked = settings(**SRCNN, trained_on="all")
    found = evaluate.evaluate(asked, tmp_path / "test.h5", tmp_path / "x.json", best)
    assert found["dataset"] == asked.dataset != "all"
    with pytest.raises(UserError, match=r"dataset all.*asks for others"):
        other = settings(**SRCNN, trained_on="others")
        evaluate.evaluate(other, tmp_path / "test.h5", tmp_path / "y.json", best)


def test_store_of_another_dataset_is_refused(tmp_path):
    store(tmp_path / "test.h5")
    with pytest.raises(UserError, match=r"toy.*other"):
        evaluate.evaluate(settings(dataset="other"), tmp_path / "test.h5", tmp_path / "x.json")


def test_untrained_network_is_refused(tmp_path):
    store(tmp_path / "test.h5")
    with pytest.raises(UserError, match="--checkpoint"):
        evaluate.evaluate(settings(**SRCNN), tmp_path / "test.h5", tmp_path / "x.json")


def test_nan_output_is_refused(tmp_path):
    store(tmp_path / "test.h5")
    best = train(tmp_path / "best.pt")
    saved = checkpoint.load(best)
    weights = {key: value * np.nan for key, value in saved.weights.items()}
    save(best, "srcnn", saved.options, weights, settings=saved.settings)
    with pytest.raises(UserError, match=r"NaN.*a1\.nii\.gz"):
        evaluate.evaluate(settings(**SRCNN), tmp_path / "test.h5", tmp_path / "x.json", best)
    assert not (tmp_path / "x.json").exists()


def test_volume_smaller_than_the_window_is_named(tmp_path):
    store(tmp_path / "test.h5", [("a", "", (2, 8, 8))])
    with pytest.raises(UserError, match=r"a\.nii\.gz: slices of 8x8"):
        evaluate.evaluate(settings(), tmp_path / "test.h5", tmp_path / "x.json")


def test_runs_with_torch_numpy_h5py_and_skimage_alone(tmp_path):
    """Compute nodes have no more: the other packages are hidden, and there is no figure."""
    store(tmp_path / "test.h5")
    (tmp_path / "settings.json").write_text(json.dumps(evaluation()), encoding="utf-8")
    hidden = "matplotlib mlflow nibabel nilearn pandas pydantic rich typer yaml"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden.split()!r})); "
        "from mrsr.metrics import evaluate; evaluate.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "--settings", f"@{tmp_path}/settings.json",
         "--slices", tmp_path / "test.h5", "--out", tmp_path / "x.json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "toy x2 bicubic: psnr" in done.stdout
    assert (tmp_path / "x.json").is_file() and not (tmp_path / "x.png").exists()


def test_mistakes_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        evaluate.main(
            ["--settings", json.dumps(evaluation()), "--slices", str(tmp_path / "no.h5"),
             "--out", str(tmp_path / "x.json")]
        )  # fmt: skip
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1

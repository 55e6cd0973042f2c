"""Every setting stands once: documented, read by the code, and never repeated in params.yaml.

Run: pytest tests/params/test_schema.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from mrsr.params import declared, jobs, loading, schema
from mrsr.params.typed import build, digest, hints, plain
from project import ROOT

SOURCE = ROOT / "src" / "mrsr"
# read by another name than `.field`: merged as tables before they become a job's settings
MERGED = {"like", "set", "published", "train", "tracked", "patch_lr", "about", "also", "experiment"}
# handed over as a whole: its fields are the options of a network's `build`
BUILT = {schema.AutoencoderNetwork: "autoencoder", schema.VitNetwork: "unetr"}


def parts_of(kind: Any) -> Iterator[type]:
    """The dataclasses that a type is made of."""
    if dataclasses.is_dataclass(kind):
        yield typing.cast(type, kind)
        return
    for part in typing.get_args(kind):
        if isinstance(part, type) or typing.get_origin(part) is not None:
            yield from parts_of(part)


def sections(kind: type, seen: set[type]) -> set[type]:
    """All dataclasses below one, and itself."""
    if kind not in seen:
        seen.add(kind)
        for field in dataclasses.fields(kind):
            for part in parts_of(hints(kind)[field.name]):
                sections(part, seen)
    return seen


ALL = sorted(
    sections(schema.Params, set()) | sections(schema.Experiment, set()), key=lambda k: k.__name__
)


def documented(kind: type) -> dict[str, str]:
    """field -> the text beneath it, for the fields that the class itself declares."""
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for line, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            has_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            found[line.target.id] = str(below.value.value) if has_text else ""
    return found


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_leaf_is_documented_and_read(kind: type) -> None:
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for file in [*SOURCE.rglob("*.py"), ROOT / "workflow/rules/common.smk", ROOT / "Snakefile"]
        if file.parent != SOURCE / "params" / "schema"
    )
    texts = {
        name: text
        for part in kind.__mro__
        if dataclasses.is_dataclass(part)
        for name, text in documented(part).items()
    }
    for field in dataclasses.fields(kind):
        assert texts[field.name].strip().endswith((".", ")")), f"{kind.__name__}.{field.name}"
        if kind in BUILT:
            assert field.name in (declared.model_options(BUILT[kind]) or []), field.name
        elif field.name not in MERGED:
            assert re.search(rf"\.{field.name}\b|[\"']{field.name}[\"']", code), field.name


def repeated(kind: Any, written: Any, where: str) -> Iterator[str]:
    """Dotted paths of what params.yaml states although it is the default."""
    if not dataclasses.is_dataclass(kind) or not isinstance(written, dict):
        return
    for field in dataclasses.fields(kind):
        if field.name not in written:
            continue
        value, path = written[field.name], f"{where}.{field.name}"
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is not dataclasses.MISSING and plain(default) == value:
            yield path
        inner = list(parts_of(hints(kind)[field.name]))
        if typing.get_origin(hints(kind)[field.name]) is dict and inner and isinstance(value, dict):
            for key, item in value.items():
                yield from repeated(inner[0], item, f"{path}.{key}")
        elif inner and not isinstance(hints(kind)[field.name], types.UnionType):
            yield from repeated(inner[0], value, path)


def test_no_default_is_repeated_in_params_yaml() -> None:
    document = loading.read_yaml(ROOT / "params.yaml")
    assert list(repeated(schema.Params, document, "")) == []


def test_what_params_yaml_does_not_state_has_its_default_in_force() -> None:
    document = loading.read_yaml(ROOT / "params.yaml")
    in_force = loading.load(ROOT / "params.yaml", "paper").params
    for name in ("vit", "autoencoder", "sr", "metrics"):
        section = getattr(in_force, name)
        for field in dataclasses.fields(section):
            if field.name not in document[name]:
                default = field.default
                if field.default_factory is not dataclasses.MISSING:
                    default = field.default_factory()
                assert getattr(section, field.name) == default, f"{name}.{field.name}"


def test_params_yaml_is_short() -> None:
    assert len((ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()) <= 450


@pytest.mark.parametrize("name", loading.names(ROOT / "params.yaml"))
def test_a_job_rebuilds_its_settings_from_json(name: str) -> None:
    from mrsr.params.settings_files import every_job

    for job in every_job(loading.load(ROOT / "params.yaml", name)).values():
        if dataclasses.is_dataclass(job):
            again = build(type(job), plain(job))
            assert again == job
            assert digest(again) == digest(job)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stepz": 1}, "stepz: unknown key"),
        ({"steps": None}, "steps: must be of type int"),
        ({"steps": True}, "steps: must be of type int"),
        ({"steps": 0}, "steps: must be 1 or more"),
        ({"precision": "fp7"}, "precision: must be one of auto, fp32, bf16, fp64"),
        ({"optimizer": {"lr": 0, "weight_decay": 0}}, "optimizer.lr: must be greater than 0"),
        ({"optimizer": {"lr": 1}}, "optimizer.weight_decay: is missing"),
        ({"model": "srresnet"}, "model: must be a table"),
        ({"explode": float("inf")}, "explode: must be a finite number"),
        ({"features": {"vit_layers": [0.5]}}, "features.vit_layers.0: must be of type int"),
    ],
)
def test_a_job_refuses_wrong_settings_by_their_path(change: dict[str, Any], told: str) -> None:
    experiment = loading.load(ROOT / "params.yaml", "smoke")
    settings = plain(experiment.super_resolution("phantom_t1", 2, "proposed")) | change
    with pytest.raises(ValueError, match=re.escape(told)):
        build(jobs.SuperResolution, settings)


def test_settings_of_an_older_checkpoint_are_read_for_what_they_have_in_common() -> None:
    experiment = loading.load(ROOT / "params.yaml", "smoke")
    job = experiment.super_resolution("phantom_t1", 2, "srresnet")
    older = plain(job) | {"no_longer": 1}
    del older["place"]
    assert build(jobs.SuperResolution, older, strict=False) == job

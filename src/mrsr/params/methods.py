"""A method of params.yaml as a row: its entry resolved, its recipe chosen, both recipes checked."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import ValidationError

from mrsr.params.declared import at, loss_names, model_is_guided, model_options
from mrsr.params.schema import Method, Params, Section, Training


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` over `base`, table by table; lists and scalars are replaced."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def first_problem(error: ValidationError, prefix: str = "") -> str:
    """The first problem of a validation as 'dotted.path: what'."""
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    path = ".".join(part for part in (prefix, path) if part)
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("Extra inputs are not permitted", "unknown key")
    return f"{path}: {message}" if path else message


class Row(Section):
    """A method as it will be trained: `like` followed, recipe merged, zero weights dropped."""

    key: str
    model: str
    type: str
    acceleration: int
    recipe: str
    options: dict[str, Any]
    losses: dict[str, float]
    label: str
    citation: str
    kind: str
    training: Training

    @property
    def trained(self) -> bool:
        """A method without losses (bicubic) has nothing to train."""
        return bool(self.losses)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The networks trained beforehand that its losses look through."""
        vit = ("vit",) if "vit" in self.losses else ()
        codes = {"structure", "texture"} & self.losses.keys()
        return (*vit, *(("autoencoder",) if codes else ()))


def chain(methods: dict[str, Method], key: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """An entry with those that it is `like` beneath it.

    Raises:
        ValueError: one of them does not exist, or they go in a circle.
    """
    if key not in methods:
        raise at(f"methods.{seen[-1]}.like", f"no method '{key}'", methods)
    if key in seen:
        raise at(f"methods.{key}.like", f"goes in a circle: {' -> '.join((*seen, key))}")
    own = methods[key].model_dump(exclude_unset=True)
    like = own.pop("like", None)
    if like:
        return merge(chain(methods, like, (*seen, key)), own)
    return {"model": key, **own}  # without `model:` the entry's own name is the file's name


def resolve(params: Params, key: str) -> Row:
    """A method's row in the chosen experiment.

    Raises:
        ValueError: where its entry is wrong, as a dotted path and what to write there.
    """
    entry = chain(params.methods, key)
    kind, chosen = entry.get("type", "single"), params.experiments[params.experiment].recipe
    published = dict(entry.get("published", {}))
    published.pop("note", "")
    recipe = entry.get("recipe") or chosen
    if not published:
        recipe = "common"
    model = entry["model"]
    known = model_options(model)
    if known is None:
        raise at(f"methods.{key}.model", f"missing file src/mrsr/models/{model}.py")
    for option in entry.get("options", {}):
        if option not in known:
            raise at(f"methods.{key}.options.{option}", f"model '{model}' has no such", known)
    if model_is_guided(model) != (kind == "guided"):
        needs = "a guide: write type: guided" if kind != "guided" else "no guide: not type: guided"
        raise at(f"methods.{key}.type", f"model '{model}' takes {needs}")
    if entry.get("acceleration", 1) > 1 and kind != "joint":
        raise at(
            f"methods.{key}.acceleration", "only methods of type joint take undersampled input"
        )
    losses = entry.get("losses", {})
    _check_weights(losses, f"methods.{key}.losses")
    published_losses = published.pop("losses", losses)
    _check_weights(published_losses, f"methods.{key}.published.losses")
    train = entry.get("train", {})
    # both recipes are checked, whichever is in force
    common = _training(params, train, f"methods.{key}.train")
    as_published = _training(params, merge(train, published), f"methods.{key}.published")
    if recipe == "published":
        losses = published_losses
    return Row(
        key=key,
        model=model,
        type=kind,
        acceleration=entry.get("acceleration", 1),
        recipe=recipe,
        options=entry.get("options", {}),
        losses={name: weight for name, weight in losses.items() if weight > 0},
        label=entry.get("label") or key,
        citation=entry.get("citation", ""),
        kind=entry.get("kind", "baseline"),
        training=as_published if recipe == "published" else common,
    )


def _check_weights(losses: Any, where: str) -> None:
    """`published` is not typed: its losses are checked here as the sections check `losses`."""
    if not isinstance(losses, dict):
        raise at(where, "must be a table, such as {l1: 1}")
    for name, weight in losses.items():
        if name not in loss_names():
            raise at(f"{where}.{name}", "no such loss", loss_names())
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise at(f"{where}.{name}", "must be a number of 0 or more")


def _training(params: Params, change: dict[str, Any], where: str) -> Training:
    try:
        return Training.model_validate(merge(params.sr.model_dump(mode="json"), change))
    except ValidationError as error:
        raise ValueError(first_problem(error, where)) from None

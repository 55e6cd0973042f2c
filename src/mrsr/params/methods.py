"""A method of params.yaml, resolved: `like` followed, recipe chosen and checked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrsr.params.checking import checked
from mrsr.params.declared import (
    OTHER_NETWORKS,
    at,
    loss_names,
    model_is_guided,
    model_is_trained,
    model_names,
    model_options,
)
from mrsr.params.schema import Kind, Params, Recipe, SuperResolution, Type
from mrsr.params.typed import plain


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` merged in, table by table; lists and scalars are replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


@dataclass(frozen=True, kw_only=True)
class ResolvedMethod:
    """A method as it will be trained; losses of weight 0 are left out."""

    key: str
    model: str
    type: Type
    acceleration: int
    recipe: Recipe
    options: dict[str, Any]
    losses: dict[str, float]
    label: str
    citation: str
    kind: Kind
    training: SuperResolution

    @property
    def trained(self) -> bool:
        """A method without losses (bicubic) has nothing to train."""
        return bool(self.losses)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The frozen networks that its losses use."""
        vit = ("vit",) if "vit" in self.losses else ()
        codes = {"structure", "texture"} & self.losses.keys()
        return (*vit, *(("autoencoder",) if codes else ()))


def entry_of(
    entries: Mapping[str, Mapping[str, Any]], key: str, seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A method's entry with `like` followed.

    Raises:
        ValueError: one of the entries does not exist, or `like` leads back to itself.
    """
    if key not in entries:
        raise at(f"methods.{seen[-1]}.like", f"no method '{key}'", entries)
    if key in seen:
        raise at(f"methods.{key}.like", f"leads back to itself: {' -> '.join((*seen, key))}")
    own = dict(entries[key])
    like = own.pop("like", None)
    if like:
        return merge(entry_of(entries, like, (*seen, key)), own)
    return {"model": key, **own}  # without `model:` the entry's own name is the file's name


def resolve_all(
    params: Params, entries: Mapping[str, Mapping[str, Any]], recipe: Recipe = "common"
) -> dict[str, ResolvedMethod]:
    """Every method of `entries`; see `resolve`."""
    return {key: resolve(params, entries, key, recipe) for key in entries}


def resolve(
    params: Params, entries: Mapping[str, Mapping[str, Any]], key: str, recipe: Recipe = "common"
) -> ResolvedMethod:
    """Resolve a method.

    Args:
        params: params.yaml, checked. entries: its `methods:` as written.
        recipe: the experiment's.

    Raises:
        ValueError: its entry is wrong; dotted path and what to write there.
    """
    entry = entry_of(entries, key)
    kind = entry.get("type", "single")
    published = dict(entry.get("published", {}))
    published.pop("note", "")
    recipe = (entry.get("recipe") or recipe) if published else "common"
    _check_network(key, entry, kind)
    losses = entry.get("losses", {})
    _check_weights(losses, f"methods.{key}.losses")
    published_losses = published.pop("losses", losses)
    _check_weights(published_losses, f"methods.{key}.published.losses")
    _check_trained(key, entry["model"], losses)
    train, base = entry.get("train", {}), plain(params.sr)
    # both recipes are checked, whichever is used
    common = checked(SuperResolution, merge(base, train), f"methods.{key}.train")
    as_published = checked(
        SuperResolution, merge(base, merge(train, published)), f"methods.{key}.published"
    )
    if recipe == "published":
        losses = published_losses
    return ResolvedMethod(
        key=key,
        model=entry["model"],
        type=kind,
        acceleration=entry.get("acceleration", 1),
        recipe=recipe,
        options=entry.get("options", {}),
        losses={name: float(weight) for name, weight in losses.items() if weight > 0},
        label=entry.get("label") or key,
        citation=entry.get("citation", ""),
        kind=entry.get("kind", "baseline"),
        training=as_published if recipe == "published" else common,
    )


def _check_network(key: str, entry: Mapping[str, Any], kind: str) -> None:
    model = entry["model"]
    if model in OTHER_NETWORKS:
        raise at(
            f"methods.{key}.model",
            f"'{model}' is the {OTHER_NETWORKS[model]}, not a super-resolution network",
            model_names(),
        )
    known = model_options(model)
    if known is None:
        missing = f"missing file src/mrsr/models/{model}.py with a function build"
        raise at(f"methods.{key}.model", missing)
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


def _check_trained(key: str, model: str, losses: Mapping[str, Any]) -> None:
    """Check that a network with weights has a loss, and bicubic interpolation none."""
    acting = any(weight > 0 for weight in losses.values())
    if model_is_trained(model) and not acting:
        missing = "all weights are 0" if losses else "missing"
        raise at(
            f"methods.{key}.losses",
            f"{missing}, and model '{model}' has to be trained; write a loss, such as {{l1: 1}}",
        )
    if losses and not model_is_trained(model):
        raise at(f"methods.{key}.losses", f"model '{model}' has nothing to train; leave them out")


def _check_weights(losses: Any, where: str) -> None:
    """The schema checks `losses` but not `published`, whose losses are checked here."""
    if not isinstance(losses, Mapping):
        raise at(where, "must be a table, such as {l1: 1}")
    for name, weight in losses.items():
        if name not in loss_names():
            raise at(f"{where}.{name}", "no such loss", loss_names())
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise at(f"{where}.{name}", "must be a number of 0 or more")

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
    learned_losses,
    loss_names,
    model_frozen,
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
    trained_on: str
    weights_of: str
    ensemble: int
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

    def home(self, dataset: str) -> tuple[str, str]:
        """The dataset and the method of the training that serves its cells of `dataset`."""
        return self.trained_on or dataset, self.weights_of or self.key

    @property
    def compared(self) -> tuple[str, ...]:
        """The frozen networks that its losses use."""
        vit = ("vit",) if "vit" in self.losses else ()
        codes = {"structure", "texture"} & self.losses.keys()
        return (*vit, *(("autoencoder",) if codes else ()))

    @property
    def frozen(self) -> tuple[str, ...]:
        """The frozen networks that its training waits for: for its losses, and inside its own."""
        inside = model_frozen(self.model, self.options)
        return tuple(dict.fromkeys((*self.compared, *inside)))


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
    _check_acts(key, entries[key], entry)
    _check_home(params, entries, key, entry)
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
        trained_on=entry.get("trained_on") or "",
        weights_of=entry.get("weights_of") or "",
        ensemble=entry.get("ensemble", 1),
        recipe=recipe,
        options={**_shapes(params, entry["model"]), **entry.get("options", {})},
        losses={name: float(weight) for name, weight in losses.items() if weight > 0},
        label=entry.get("label") or key,
        citation=entry.get("citation", ""),
        kind=entry.get("kind", "baseline"),
        training=as_published if recipe == "published" else common,
    )


def _shapes(params: Params, model: str) -> dict[str, Any]:
    """The shapes of the frozen networks, for a network that has options of their names."""
    known = model_options(model) or ()
    shapes = {"vit": params.vit.network, "autoencoder": params.autoencoder.network}
    return {name: plain(shape) for name, shape in shapes.items() if name in known}


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
    if kind == "self" and (inside := model_frozen(model, entry.get("options", {}))):
        takes = f"takes in a trained {inside[0]}, which methods of type self do not have"
        raise at(f"methods.{key}.type", f"model '{model}' {takes}; set options.networks")
    if entry.get("acceleration", 1) > 1 and kind != "joint":
        raise at(
            f"methods.{key}.acceleration", "only methods of type joint take undersampled input"
        )


def _check_home(
    params: Params, entries: Mapping[str, Mapping[str, Any]], key: str, entry: Mapping[str, Any]
) -> None:
    """Check `trained_on` and `weights_of`."""
    home, other, kind = entry.get("trained_on"), entry.get("weights_of"), entry.get("type")
    if home and home not in params.data.datasets:
        raise at(f"methods.{key}.trained_on", f"no dataset '{home}'", params.data.datasets)
    if (home or other) and kind not in (None, "single"):
        name = "trained_on" if home else "weights_of"
        raise at(f"methods.{key}.{name}", f"only for methods of type single, not {kind}")
    if other:
        first = entry_of(entries, other)
        same = ("model", "options", "losses", "train", "trained_on")
        differ = [name for name in same if first.get(name) != entry.get(name)]
        if other == key or first.get("weights_of") or differ:
            raise at(
                f"methods.{key}.weights_of",
                f"'{other}' must be another method with the same {', '.join(same)}, "
                "and a network of its own; write `like` too",
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


def _check_acts(key: str, own: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    """Check that what a method's own entry sets can act.

    Args:
        own: the entry as written. entry: with `like` followed.

    Raises:
        ValueError: as 'dotted.path: what'.
    """
    train = own.get("train") or {}
    losses = {*entry.get("losses", {}), *entry.get("published", {}).get("losses", {})}
    learned = losses & {*learned_losses()}
    for name, needed in (("adversarial", learned), ("features", learned - {"adversarial"})):
        if name in train and not needed:
            raise at(f"methods.{key}.train.{name}", "no loss of the method uses it; remove it")
    if "patch" in train and train.get("patch_lr"):
        raise at(f"methods.{key}.train.patch", "patch_lr takes its place; give one of them")
    if own.get("recipe") == "published" and not entry.get("published"):
        raise at(f"methods.{key}.recipe", "the method has no published recipe")

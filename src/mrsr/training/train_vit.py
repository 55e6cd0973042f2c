"""Train the vision transformer (section 3.2, appendix B): pre-training, then fine-tuning.

    python -m mrsr.training.train_vit --settings @vit.json --train a/train.h5 b/train.h5 \\
        --validation a/validation.h5 b/validation.h5 --test a/test.h5 b/test.h5 \\
        --out results/demo/checkpoints/vit/segmentation/best.pt

`phase: segmentation` trains UNETR in 3D on the stores that have labels
(`method/segmentation.py`); `weights` starts from the user's own MONAI UNETR, and `steps: 0` then
takes it as it is. `phase: pretext` fine-tunes the encoder of `--start` (such a checkpoint),
collapsed to 2D, on the slices of all stores (`method/pretexts.py`):

    ... --start results/demo/checkpoints/vit/segmentation/best.pt \\
        --out results/demo/checkpoints/vit/organ/best.pt

What lies beside `--out`, resuming, signals and exit codes are those of `train_sr.py`. best.pt is of
the best validation Dice, balanced accuracy (organ) or loss (other pretext tasks); the metrics at
that step stand in its provenance. `method.features.load_encoder` gives the feature extractor of
either file.

Needs torch, numpy, h5py and tqdm; the segmentation also MONAI.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrsr import checkpoint, compute, files, models
from mrsr.errors import UserError, guarded
from mrsr.files import alone
from mrsr.method import features, pretexts, segmentation
from mrsr.models import unetr
from mrsr.params.jobs import Pretext, Segmentation, read_json
from mrsr.params.typed import build, plain
from mrsr.raw import download
from mrsr.training import optimizers, resume
from mrsr.training.session import Session, digests_of

WEIGHTS = "weights.pt"  # the user's own, beside the checkpoints


def train(
    settings: Segmentation | Pretext,
    stores: dict[str, list[Path]],
    start: Path | None,
    out: Path,
) -> None:
    """Train, from the first step or from where the last run was stopped, to the last step.

    Args:
        stores: paths by split: train, validation, test.
        start: the checkpoint of a ViT whose encoder a pretext task fine-tunes.
        out: the checkpoint to write; its folder holds the log and the state.

    Raises:
        UserError: a setting, a store or given weights are wrong. Diverged: a loss is NaN or
            exploded. Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    # a 5D tensor has no channels-last layout of that name, and tokens do not gain by it
    machine = replace(compute.start(settings), channels_last=False)
    compute.share(settings.batch, machine)
    resume.seed(settings.seed)
    recorded = _recorded(settings)
    if isinstance(settings, Segmentation):
        network, options, given = _unetr(settings, machine, out.parent)
        recorded |= given
        task = segmentation.task(settings, machine, machine.place(network), stores)
    else:
        encoder, options, given = _encoder(start)
        recorded |= given
        task = pretexts.task(settings, machine, encoder, tuple(options["size"][1:]), stores)
    network = task.network
    forward = torch.compile(network) if settings.compile else network
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    _slow_down(optimizer, network, settings.encoder_rate)
    resume.seed(settings.seed + 1, machine.rank)

    def validate() -> None:
        found = {split: task.evaluate(split) for split in task.splits}
        for split, metrics in found.items():
            score = task.score(metrics) if split == "validation" else ()
            session.validated(split, metrics, score=score, network=task.encoder)

    with Session(
        settings, machine, out,
        label=f"vit {recorded['method']}",
        parts={"network": network, "optimizer": optimizer}, terms=[*task.terms, "total"],
        data={split: digests_of(paths) for split, paths in stores.items()}, recorded=recorded,
    ) as session:  # fmt: skip
        network.train()
        if settings.steps == 0:
            validate()  # the user's weights, as they are
        for step in session.steps():
            # batch
            pair = task.draw(step - 1)
            rate = optimizers.set_scheduled_rate(optimizer, settings, step)
            optimizer.zero_grad()
            terms = torch.zeros(len(task.terms) + 1, dtype=machine.dtype, device=machine.device)

            # forward, loss, backward
            for one, two, portion in compute.micro_batches(*pair, settings.micro_batch):
                each = list(task.losses(forward, one, two).values())
                total = sum(each)
                (total * portion).backward()
                terms += torch.stack([*each, total]).detach() * portion
            terms = compute.average(network, terms, machine)
            session.add(terms)

            # step
            if settings.clip_gradient:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
            optimizer.step()

            # log, validate, save
            session.log({"lr": rate})
            if session.validation_is_due:
                with session.paused():
                    validate()
            session.save()
        session.finish(network=task.encoder, model_name="unetr", options=options, scale=1)


def _slow_down(optimizer: torch.optim.Optimizer, network: nn.Module, factor: float) -> None:
    """Give the transformer inside UNETR its own group, with `factor` times the learning rate.

    One Adam step moves each of a patch's 4096 weights by the rate, and intensities are positive: at
    rates that suit a small decoder (1e-3 and more) all tokens soon share one large offset, and the
    features cannot tell patches apart any more. The published 1e-4 needs no factor.
    """
    if factor == 1 or not hasattr(network, "vit"):
        return
    slow = {id(parameter) for parameter in network.vit.parameters()}
    (group,) = optimizer.param_groups
    both: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in group["params"]:
        both[id(parameter) in slow].append(parameter)
    group["params"] = both[False]
    optimizer.add_param_group({"params": both[True], "factor": factor})


def _unetr(
    settings: Segmentation, machine: compute.Machine, folder: Path
) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    """The network, the options that build it, and what identifies the user's weights."""
    options = {**plain(settings.network), "classes": settings.classes, "dimensions": 3}
    network = models.build("unetr", 1, options)
    if machine.first:
        _users_weights(settings, folder)  # the others find what the first one brought
    compute.wait(machine)
    if not settings.weights:
        return network, options, {}
    unetr.load_weights(network, folder / WEIGHTS)
    return network, options, {"weights_sha256": files.sha256(folder / WEIGHTS)}


def _encoder(start: Path | None) -> tuple[unetr.Encoder2d, dict[str, Any], dict[str, str]]:
    """The 2D encoder of a ViT checkpoint, the options that build it, and the file's identity."""
    if start is None:
        raise UserError("phase pretext needs --start, the checkpoint of the segmentation")
    encoder = features.load_encoder(start).requires_grad_(True)
    options = {**checkpoint.load(start).options, "dimensions": 2}
    height, width = options["size"][1:]
    if height != width:
        raise UserError(f"{start}: network.size {options['size']} is not square in plane")
    return encoder, options, {"start_sha256": files.sha256(start)}


def _users_weights(settings: Segmentation, folder: Path) -> None:
    """Bring the user's own weights, where there are any, to `WEIGHTS`, verified."""
    if not settings.weights:
        return
    if not settings.weights_sha256 and download.local_path(settings.weights) is None:
        raise UserError("vit.weights is a URL: give vit.weights_sha256, its SHA-256, too")
    # beside the checkpoints: a resumed run finds it, also where there is no network any more
    target = folder / WEIGHTS
    if not settings.weights_sha256:
        target.unlink(missing_ok=True)  # nothing would tell an older copy from it
    download.fetch(settings.weights, target, sha256=settings.weights_sha256)


def _recorded(settings: Segmentation | Pretext) -> dict[str, Any]:
    """The settings as log and checkpoint have them: no address, and the labels of other runs."""
    recorded = plain(settings)
    method = "segmentation"
    if isinstance(settings, Pretext):
        method = settings.pretext
    elif settings.weights:
        path = download.local_path(settings.weights)
        recorded["weights"] = path.name if path is not None else download.shown(settings.weights)
    return {"dataset": "vit", "scale": 1, "method": method, **recorded}


def _settings(text: str) -> Segmentation | Pretext:
    value, where = read_json(text)
    kind = Pretext if value.get("phase") == "pretext" else Segmentation
    try:
        settings: Segmentation | Pretext = build(kind, value)
    except ValueError as error:
        raise UserError(f"settings{where}: {error}; `mrsr params` shows them all") from None
    if settings.steps == 0 and not getattr(settings, "weights", ""):
        raise UserError(f"settings{where}: steps: 0 takes given weights as they are; give weights")
    return settings


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mrsr.training.train_vit", description="Train the vision transformer."
    )
    parser.add_argument("--settings", required=True, help="JSON object, or @file")
    for split, use in (("train", "learn from"), ("validation", "choose by"), ("test", "log")):
        parser.add_argument(
            f"--{split}", type=Path, nargs="+", metavar="STORE", required=split != "test",
            help=f"slice stores to {use}",
        )  # fmt: skip
    parser.add_argument("--start", type=Path, help="checkpoint that a pretext task starts from")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write: .../best.pt")
    given = parser.parse_args(arguments)
    stores = {name: getattr(given, name) or [] for name in ("train", "validation", "test")}
    try:
        settings = _settings(given.settings)
        with alone(given.out.parent):
            train(settings, stores, given.start, given.out)
    finally:
        compute.finish()


if __name__ == "__main__":
    main()

"""Train the vision transformer (section 3.2, appendix B): pre-training, then fine-tuning.

    python -m mrsr.training.train_vit --settings @vit.json --train a/train.h5 b/train.h5 \\
        --validation a/validation.h5 b/validation.h5 --test a/test.h5 b/test.h5 \\
        --out results/demo/checkpoints/vit/segmentation/best.pt

`phase: segmentation` trains UNETR in 3D on the stores that have labels
(`method/segmentation.py`); `weights` starts from your own MONAI UNETR, and with `steps: 0` it is
used unchanged. `phase: pretext` fine-tunes the encoder of `--start` (such a checkpoint),
collapsed to 2D, on the slices of all stores (`method/pretexts.py`):

    ... --start results/demo/checkpoints/vit/segmentation/best.pt \\
        --out results/demo/checkpoints/vit/organ/best.pt

Files next to `--out`, resuming, signals and exit codes are as in `train_sr.py`. best.pt has the
weights of the best validation Dice, balanced accuracy (organ) or loss (other pretext tasks); its
provenance has the metrics at that step. `method.features.load_encoder` loads the feature extractor
from either file.

Needs torch, numpy, h5py and tqdm; the segmentation also MONAI.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrsr import compute
from mrsr.errors import UserError
from mrsr.method import pretexts, segmentation
from mrsr.params.jobs import Pretext, Segmentation, read_json
from mrsr.params.typed import build
from mrsr.training import command, optimizers, vit_networks
from mrsr.training.muon import Pair
from mrsr.training.session import Session, digests_of


def train(
    settings: Segmentation | Pretext,
    stores: dict[str, list[Path]],
    start: Path | None,
    out: Path,
) -> None:
    """Train from the first step, or from where the last run stopped, to the last step.

    Args:
        stores: paths by split: train, validation, test.
        start: the checkpoint of a ViT whose encoder a pretext task fine-tunes.
        out: the checkpoint to write; log and state are in the same folder.

    Raises:
        UserError: a setting, a store or given weights are wrong. Diverged: a loss is NaN or
            exploded. Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    # 5D tensors have another channels-last layout, and tokens do not benefit from it
    machine = replace(compute.start(settings), channels_last=False)
    compute.share(settings.batch, machine)
    compute.seed(settings.seed)
    recorded = vit_networks.recorded(settings)
    if isinstance(settings, Segmentation):
        network, options, given = vit_networks.unetr(settings, machine, out.parent)
        recorded |= given
        task = segmentation.task(settings, machine, machine.place(network), stores)
    else:
        encoder, options, given = vit_networks.encoder(start)
        recorded |= given
        task = pretexts.task(settings, machine, encoder, tuple(options["size"][1:]), stores)
    network = task.network
    forward = torch.compile(network) if settings.compile else network
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    _slow_down(optimizer, network, settings.encoder_rate)
    compute.seed(settings.seed + 1, machine.rank)

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
            validate()  # the user's weights, unchanged
        for step in session.steps():
            # batch
            first, second = task.draw(step - 1)
            rate = optimizers.set_scheduled_rate(optimizer, settings, step)
            optimizer.zero_grad()
            terms = torch.zeros(len(task.terms) + 1, dtype=machine.dtype, device=machine.device)

            # forward, loss, backward
            for one, two, portion, *_ in compute.micro_batches(first, second, settings.micro_batch):
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


def _slow_down(optimizer: optimizers.AnyOptimizer, network: nn.Module, factor: float) -> None:
    """Give the transformer inside UNETR its own group, with `factor` times the learning rate.

    One Adam step moves each of a patch's 4096 weights by the rate, and intensities are positive: at
    rates that suit a small decoder (1e-3 and more) all tokens soon share one large offset, and the
    features no longer distinguish patches. The published 1e-4 needs no factor.
    """
    vit = getattr(network, "vit", None)
    if factor == 1 or not isinstance(vit, nn.Module):
        return
    if isinstance(optimizer, Pair):
        raise UserError("encoder_rate is for the optimizers of one group; use adam, or 1 with muon")
    slow = {id(parameter) for parameter in vit.parameters()}
    (group,) = optimizer.param_groups
    both: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in group["params"]:
        both[id(parameter) in slow].append(parameter)
    group["params"] = both[False]
    optimizer.add_param_group({"params": both[True], "factor": factor})


def _settings(text: str) -> Segmentation | Pretext:
    value, where = read_json(text)
    settings: Segmentation | Pretext
    try:
        if value.get("phase") == "pretext":
            settings = build(Pretext, value)
        else:
            settings = build(Segmentation, value)
    except ValueError as error:
        raise UserError(f"settings{where}: {error}; `mrsr params` shows them all") from None
    if settings.steps == 0 and not getattr(settings, "weights", ""):
        raise UserError(f"settings{where}: steps: 0 uses given weights unchanged; give weights")
    return settings


def _start(settings: Segmentation | Pretext, given: argparse.Namespace) -> None:
    stores = {split: paths for split in command.SPLITS if (paths := getattr(given, split))}
    train(settings, stores, given.start, given.out)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = command.parser("train_vit", "Train the vision transformer.")
    command.add_stores(parser, several=True)
    parser.add_argument("--start", type=Path, help="checkpoint that a pretext task starts from")
    command.run(parser, arguments, _settings, _start)


if __name__ == "__main__":
    main()

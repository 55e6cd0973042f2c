"""Train the vision transformer (section 3.2, appendix B): pre-training, then fine-tuning.

    python -m mrsr.training.train_vit --settings @vit.json --train a/train.h5 b/train.h5 \\
        --validation a/validation.h5 b/validation.h5 --test a/test.h5 b/test.h5 \\
        --out results/demo/checkpoints/vit/segmentation/best.pt

`phase: segmentation` trains UNETR in 3D on the stores that have labels (`segmentation.py`);
`weights` starts from the user's own MONAI UNETR, and `steps: 0` then takes it as it is;
`encoder_rate` multiplies the transformer's learning rate, see `_slow_down`.
`phase: pretext` fine-tunes the encoder of `--start` (such a checkpoint), collapsed to 2D, on the
slices of all stores (`pretexts.py`):

    ... --start results/demo/checkpoints/vit/segmentation/best.pt \\
        --out results/demo/checkpoints/vit/organ/best.pt

What lies beside `--out`, resuming, signals and exit codes are those of `train_sr.py`. best.pt is of
the best validation Dice, balanced accuracy (organ) or loss (other pre-texts); the metrics at that
step stand in its provenance. `models.unetr.load_encoder` gives the feature extractor of
either file.

Needs torch, numpy, h5py and tqdm; the segmentation also MONAI.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mrsr import checkpoint, compute, files
from mrsr.console import Progress, clock, numbers, say
from mrsr.errors import Diverged, Interrupted, UserError, guarded
from mrsr.method import features, pretexts, segmentation
from mrsr.models import unetr
from mrsr.params.settings import digest, job, plain
from mrsr.raw import download
from mrsr.slices import store
from mrsr.tracking.background import Delivery
from mrsr.training import divergence, optimizers, resume, session
from mrsr.training.log import Log

# what a job must be told; `config.py` gives all of it, by hand one forgets
REQUIRED = (
    *("experiment", "phase", "optimizer", "schedule", "steps", "batch", "micro_batch", "seed"),
    *("clip_gradient", "validate_every", "validation_volumes", "checkpoint_every", "log_every"),
    *("precision", "compile", "channels_last", "device", "threads", "explode", "encoder_rate"),
)
OF_PHASE = {
    "segmentation": ("network", "classes", "weights", "weights_sha256"),
    "pretext": ("pretext", "mask_ratio", "temperature", "scales", "degradations", "place"),
}
# may change between two starts without changing what is trained, as in `train_sr.py`
FREE = ("tracking", "log_every", "checkpoint_every", "place", "device", "threads")
WEIGHTS = "weights.pt"  # the user's own, beside the checkpoints


def train(
    settings: SimpleNamespace, stores: dict[str, list[Path]], start: Path | None, out: Path
) -> None:
    """Train, from the first step or from where the last run was stopped, to the last step.

    Args:
        settings: see `REQUIRED` and `OF_PHASE`. stores: paths by split: train, validation, test.
        start: the checkpoint of a ViT whose encoder a pre-text fine-tunes.
        out: the checkpoint to write; its folder holds the log and the state.

    Raises:
        UserError: a setting, a store or given weights are wrong. Diverged: a loss is NaN or
            exploded. Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    began = time.monotonic()
    # a 5D tensor has no channels-last layout of that name, and tokens do not gain by it
    machine = replace(compute.start(settings), channels_last=False)
    share = compute.share(settings.batch, machine)
    folder, told = out.parent, _told(settings)
    resume.seed(settings.seed)
    if settings.phase == "segmentation":
        options = {**plain(settings.network), "classes": settings.classes, "dimensions": 3}
        network = unetr.build(**options)
        if machine.first:
            _users_weights(settings, folder)  # the others find what the first one brought
        compute.wait(machine)
        given = folder / WEIGHTS if settings.weights else None
        if given is not None:
            unetr.load_weights(network, given)
            told["weights_sha256"] = files.sha256(given)
        task = segmentation.task(settings, machine, machine.place(network), stores)
    else:
        if start is None:
            raise UserError("phase pretext needs --start, the checkpoint of the segmentation")
        encoder, options = _encoder(start)
        told["start_sha256"] = files.sha256(start)
        height, width = options["size"][1:]
        if height != width:
            raise UserError(f"{start}: network.size {options['size']} is not square in plane")
        task = pretexts.task(settings, machine, encoder, (height, width), stores)
    forward = torch.compile(task.network) if settings.compile else task.network
    optimizer = optimizers.optimizer_for(task.network, settings.optimizer)
    _slow_down(optimizer, task.network, settings.encoder_rate)
    resume.seed(settings.seed + 1, machine.rank)

    key = _digest(told, stores)
    provenance = {
        **checkpoint.provenance(),
        "device": machine.device.type,
        "processes": machine.world,
    }
    parts = {"network": task.network, "optimizer": optimizer}
    best: dict[str, Any] = {"score": [float("-inf")], "step": 0, "weights": {}, "metrics": {}}
    first, seconds, text = 0, 0.0, ""
    watch = divergence.Watch([*task.terms, "total"], settings.explode)
    state = resume.load(folder, machine, digest=key)
    if state is not None:
        first = resume.restore(state, machine, parts)
        best, seconds, text = state["best"], state["seconds"], state["log"]
        watch.window = state["window"]
        if machine.first:
            say(f"going on at step {first} of {settings.steps}")
            resume.compare(state["provenance"], provenance)
    if machine.first:
        for name in (out, folder / "last.pt"):
            name.unlink(missing_ok=True)  # a complete-looking folder means a complete training

    log = Log(folder / "log.jsonl", text, active=machine.first)
    if not text:
        log.write(
            {
                "event": "start",
                "time": time.time(),
                "settings": told,
                "provenance": provenance,
                "digest": key,
            }
        )
    tracker = Delivery(folder, settings, active=machine.first)
    label = f"vit {told['method']}"
    progress = Progress(label, settings.steps, first, active=machine.first)
    images, since = 0, time.monotonic()

    def validate(step: int) -> dict[str, Any]:
        """Log the metrics of every held-out split; the better of `best` and this step."""
        found = {split: task.evaluate(split) for split in task.splits}
        for split, metrics in found.items():
            log.metrics(step, split, metrics)
            progress.show(metrics, split)
        if not machine.first:
            return best
        score = task.score(found["validation"])
        if not all(map(math.isfinite, score)) or score <= best["score"]:
            return best  # NaN is neither better nor worse than another number
        return {
            "score": score,
            "step": step,
            "weights": checkpoint.to_cpu(task.encoder.state_dict()),
            "metrics": found,
        }

    with session.Stop() as stop, progress, log:
        task.network.train()
        if settings.steps == 0:
            best = validate(0)  # the user's weights, as they are
        for step in range(first + 1, settings.steps + 1):
            # batch
            pair = task.draw(step - 1)
            rate = optimizers.learning_rate(
                step - 1, settings.steps, settings.optimizer.lr, settings.schedule
            )
            optimizers.set_rate(optimizer, rate)
            for group in optimizer.param_groups:
                group["lr"] *= group.get("factor", 1.0)
            optimizer.zero_grad()
            terms = torch.zeros(len(task.terms) + 1, dtype=machine.dtype, device=machine.device)

            # forward, loss, backward
            for one, two, portion in compute.micro_batches(*pair, settings.micro_batch):
                each = list(task.losses(forward, one, two).values())
                total = sum(each)
                (total * portion).backward()
                terms += torch.stack([*each, total]).detach() * portion
            terms = compute.average(task.network, terms, machine)
            watch.add(step, terms)

            # step
            if settings.clip_gradient:
                nn.utils.clip_grad_norm_(task.network.parameters(), settings.clip_gradient)
            optimizer.step()
            progress.step()
            images += share * machine.world

            # log
            last = step == settings.steps
            if step % settings.log_every == 0 or last:
                metrics = watch.means()
                metrics |= {"lr": rate, "images_per_second": images / (time.monotonic() - since)}
                log.metrics(step, "train", metrics)
                progress.show(metrics)
                images, since = 0, time.monotonic()

            # validate
            if step % settings.validate_every == 0 or last:
                watch.look()
                paused = time.monotonic()
                best = validate(step)
                since += time.monotonic() - paused

            # save
            asked = stop.asked(machine)
            if step % settings.checkpoint_every == 0 or last or asked:
                watch.look()
                divergence.check_weights(task.network, step)
                resume.save(
                    folder,
                    machine,
                    step=step,
                    digest=key,
                    parts=parts,
                    best=best,
                    log=log.text,
                    window=watch.window,
                    provenance=provenance,
                    seconds=seconds + time.monotonic() - began,
                )
                tracker.nudge()
            if asked and not last:
                raise Interrupted(
                    f"stopped by {stop.name} after step {step} of {settings.steps}; the state is "
                    f"in {folder}, the same command goes on from it"
                )

        if machine.first:
            if not best["weights"]:
                raise Diverged(
                    f"{label}: no validation gave a finite score, so there is no best step; check "
                    "the validation stores for blank or broken slices, or lower optimizer.lr"
                )
            log.write(
                {
                    "event": "end",
                    "time": time.time(),
                    "best_step": best["step"],
                    "seconds": seconds + time.monotonic() - began,
                }
            )
            common = {"model_name": "unetr", "options": options, "scale": 1, "settings": told}
            where = {**provenance, "settings_digest": key, "steps": settings.steps}
            checkpoint.save(
                folder / "last.pt",
                **common,
                weights=task.encoder.state_dict(),
                provenance={**where, "step": settings.steps},
            )
            # last of all: where this file is, the training is complete
            checkpoint.save(
                out,
                **common,
                weights=best["weights"],
                provenance={**where, "step": best["step"], "metrics": best["metrics"]},
            )
            resume.clear(folder)
            say(
                f"{label}: best validation {numbers(best['metrics']['validation'])} at step "
                f"{best['step']}, {clock(seconds + time.monotonic() - began)}, {out}"
            )
    tracker.finish()


def _slow_down(optimizer: torch.optim.Optimizer, network: nn.Module, factor: float) -> None:
    """Give the transformer inside UNETR its own group, with `factor` times the learning rate.

    One Adam step moves each of a patch's 4096 weights by the rate, and intensities are positive: at
    rates that suit a small decoder (1e-3 and more) all tokens soon share one large offset, and the
    features cannot tell patches apart any more. The printed 1e-4 needs no factor.
    """
    if factor == 1 or not hasattr(network, "vit"):
        return
    slow = {id(parameter) for parameter in network.vit.parameters()}
    (group,) = optimizer.param_groups
    both = {True: [], False: []}
    for parameter in group["params"]:
        both[id(parameter) in slow].append(parameter)
    group["params"] = both[False]
    optimizer.add_param_group({"params": both[True], "factor": factor})


def _encoder(start: Path) -> tuple[unetr.Encoder2d, dict[str, Any]]:
    """The 2D encoder of a ViT checkpoint, to be trained on, and the options that build it."""
    encoder = features.load_encoder(start).requires_grad_(True)
    return encoder, {**checkpoint.load(start).options, "dimensions": 2}


def _users_weights(settings: SimpleNamespace, folder: Path) -> None:
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


def _told(settings: SimpleNamespace) -> dict[str, Any]:
    """The settings as log and checkpoint have them: no address, and the labels of other runs."""
    told = plain(settings)
    if told.get("weights"):
        path = download.local_path(told["weights"])
        told["weights"] = path.name if path is not None else download.shown(told["weights"])
    method = "segmentation" if settings.phase == "segmentation" else settings.pretext
    return {"dataset": "vit", "scale": 1, "method": method, **told}


def _digest(told: dict[str, Any], stores: dict[str, list[Path]]) -> str:
    """Changes with every setting that changes the training, and with slices and given weights."""
    fixed = {key: value for key, value in told.items() if key not in FREE}
    data = {
        split: [str(store.attributes(path).get("digest", "")) for path in paths]
        for split, paths in stores.items()
    }
    return digest({"settings": fixed, "data": data})


def _settings(text: str) -> SimpleNamespace:
    settings = job(text, ("phase",))
    if settings.phase not in OF_PHASE:
        known = ", ".join(OF_PHASE)
        raise UserError(f"settings: phase must be one of {known}, not '{settings.phase}'")
    required = (*REQUIRED, *OF_PHASE[settings.phase])
    settings = job(text, required)
    counts = ["batch", "validate_every", "checkpoint_every", "log_every"]
    # given weights may be taken as they are
    as_given = settings.phase == "segmentation" and settings.weights and settings.steps == 0
    return job(text, required, counts if as_given else [*counts, "steps"])


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mrsr.training.train_vit", description="Train the vision transformer."
    )
    several = {"type": Path, "nargs": "+", "metavar": "STORE"}
    parser.add_argument("--settings", required=True, help="JSON object, or @file")
    parser.add_argument("--train", required=True, help="slice stores to learn from", **several)
    parser.add_argument("--validation", required=True, help="stores to choose by", **several)
    parser.add_argument("--test", default=[], help="stores for the logged test curve", **several)
    parser.add_argument("--start", type=Path, help="pretext: the ViT checkpoint to fine-tune")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write: .../best.pt")
    given = parser.parse_args(arguments)
    stores = {"train": given.train, "validation": given.validation}
    if given.test:
        stores["test"] = given.test
    try:
        settings = _settings(given.settings)
        with files.alone(given.out.parent):
            train(settings, stores, given.start, given.out)
    finally:
        compute.finish()


if __name__ == "__main__":
    main()

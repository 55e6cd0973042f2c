"""Train a network on the LR slices of each test volume alone (methods of type `self`, SMORE).

    python -m mrsr.training.train_self --settings @job.json --slices test.h5 \\
        --out results/benchmark/checkpoints/openms_t1/x2/smore/best.pt

The slices of a store are degraded as for every other method; their HR versions are never used,
and the LR slices are degraded once more: the network learns to undo that and is applied to the
LR slices afterwards. `steps` is the budget of one volume. Nothing chooses among the steps, since
there is no truth to choose by: the last weights are kept.

`--out` holds the network of every volume, named by the volume's key in the store. Killed at any
moment and started again with the same command, it goes on and ends with the same weights; SIGTERM
and SIGUSR1 write the state and end with exit code 75.

Needs torch, numpy, h5py and tqdm.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mrsr import checkpoint, compute
from mrsr.console import clock, say
from mrsr.errors import UserError
from mrsr.params.jobs import SuperResolution, read
from mrsr.slices import batches, holding
from mrsr.training import command
from mrsr.training.divergence import check_weights
from mrsr.training.one_volume import begin, pairs_of, pixel_losses, train_step
from mrsr.training.session import Session, digests_of


def train(settings: SuperResolution, slices: Path, out: Path) -> None:
    """Train a network for every volume of a store, one after the other.

    Args:
        settings: as for `train_sr.train`; `steps` are of one volume.
        slices: the test store. out: the checkpoint to write; its folder holds log and state.

    Raises:
        UserError: a setting or the store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    weights = pixel_losses(settings)
    machine = compute.start(settings)
    if machine.world > 1:
        raise UserError("a volume's own training runs in one process; ask for one GPU")
    held = holding.load(
        slices, scale=settings.scale, degradation=settings.degradation, device=machine.device
    )
    steps, count = settings.steps, len(held.volumes)
    with Session(
        settings, machine, out,
        label=f"{settings.dataset} x{settings.scale} {settings.method}",
        parts=begin(settings, machine), terms=[*weights, "total"],
        data=digests_of([slices]), steps=steps * count,
    ) as session:  # fmt: skip
        finished: dict[str, Tensor] = (session.state or {}).get(
            "finished", {}
        )  # weights, by volume
        pairs: holding.Slices | None = None
        for step in session.steps():
            number, own = divmod(step - 1, steps)  # which volume, and its own step
            if own == 0 and step > 1:
                session.parts, pairs = begin(settings, machine), None
            if pairs is None:
                lr = _lr(held, number)
                pairs = pairs_of(lr, settings, held.volumes[number])
            session.add(train_step(session.parts, pairs, own, weights, settings, machine))
            ends = own == steps - 1
            session.log(due=ends)
            if ends:
                network = session.parts["network"]
                check_weights(network, step)
                key = held.volumes[number].key
                finished |= checkpoint.part_of(key, checkpoint.to_cpu(network.state_dict()))
            session.save(due=ends, finished=finished)
        session.complete(
            finished,
            session.total,
            model_name=settings.model.name,
            options=settings.model.options,
            scale=settings.scale,
            volumes={volume.key: volume.path for volume in held.volumes},
        )
        say(f"{session.label}: {count} volumes, {clock(session.spent)}, {out}")
        session.tracker.finish()


def _lr(held: holding.Slices, number: int) -> Tensor:
    """The LR slices (n, h, w) of one volume, unpadded up to the scale."""
    height, width = (-(-size // held.scale) for size in held.volumes[number].shape[1:])
    own = [lr for _, lr, *_ in batches.whole(held, only=number)]
    return torch.cat(own)[:, 0, :height, :width]


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = command.parser("train_self", "Train on each test volume itself.")
    parser.add_argument("--slices", required=True, type=Path, help="the test store")
    command.run(
        parser,
        arguments,
        lambda text: read(SuperResolution, text),
        lambda settings, given: train(settings, given.slices, given.out),
    )


if __name__ == "__main__":
    main()

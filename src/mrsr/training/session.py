"""Everything around a training's loop: state, log, progress, tracking, stopping, finishing.

The loop itself draws its batch and does forward, loss, backward and step; in between it calls the
session:

    with Session(settings, machine, out, ...) as session:
        for step in session.steps():
            ...
            session.add(terms)
            session.log({"lr": rate})
            if session.validation_is_due:
                with session.paused():
                    ...
                    session.validated("validation", metrics, score=[...], network=network)
            session.save()
        session.finish(...)

The folder of `out` has `log.jsonl`, the state while the training runs (`resume.py`), `last.pt`, and
`out` itself, which is written last: if it exists, the training is complete.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mrsr import checkpoint
from mrsr.compute import Machine, meeting
from mrsr.console import Progress, clock, numbers, say
from mrsr.errors import Diverged, Interrupted
from mrsr.params.jobs import fixed
from mrsr.params.typed import digest, plain
from mrsr.slices import known
from mrsr.slices.store import attributes
from mrsr.tracking.background import Delivery
from mrsr.training import resume
from mrsr.training.divergence import Watch, check_weights
from mrsr.training.log import Log


class Stop:
    """Set by SIGTERM and SIGUSR1 (preemption, time limit): save, then exit with code 75."""

    def __init__(self) -> None:
        self.name = ""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name

    def asked(self, machine: Machine) -> bool:
        """True on all processes, at the same step, after any of them got a signal."""
        if machine.world == 1:
            return bool(self.name)
        flag = torch.tensor([float(bool(self.name))])
        with meeting():
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        if flag.item() and not self.name:
            self.name = "a signal to another process"
        return bool(flag.item())


class Session:
    """One training; see the module's docstring."""

    def __init__(
        self,
        settings: Any,
        machine: Machine,
        out: Path,
        *,
        label: str,
        parts: dict[str, Any],
        terms: Sequence[str],
        data: Any,
        origin: dict[str, str] | None = None,
        recorded: dict[str, Any] | None = None,
        steps: int = 0,
    ) -> None:
        """Load the state of an interrupted training, or start the log of a new one.

        Args:
            settings: the training's job. out: the checkpoint to write: .../best.pt.
            label: names the training in progress lines.
            parts: networks and optimizers by name, which are saved in the state.
            terms: names of the loss terms. data: digests of the stores.
            origin: SHA-256 of the frozen networks; with other ones the training starts over.
            recorded: the settings to put into log and checkpoint, if they differ from `settings`.
            steps: of the whole training, if they differ from `settings.steps`.
        """
        self.began = time.monotonic()
        self.settings, self.machine, self.out, self.label = settings, machine, out, label
        self.folder, self.parts, self.total = out.parent, parts, steps or settings.steps
        self.recorded = recorded or plain(settings)
        origin = origin or {}
        networks = {"networks": origin} if origin else {}
        identity = {"settings": fixed(self.recorded), "data": data, **networks}
        self.digest = digest(identity)
        self.provenance = {
            **checkpoint.provenance(),
            "device": machine.device.type,
            "precision": machine.precision,
            "processes": machine.world,
            **{f"{name}_sha256": value for name, value in origin.items()},
        }
        self.watch = Watch([*terms], settings.explode)
        self.best: dict[str, Any] = {"score": [-math.inf], "step": 0, "weights": {}, "metrics": {}}
        self.step, self.first, self.seconds, text = 0, 0, 0.0, ""
        self.state = resume.load(self.folder, machine, digest=self.digest)
        if self.state is not None:
            self.first = resume.restore(self.state, machine, parts)
            self.best, self.seconds = self.state["best"], self.state["seconds"]
            text, self.watch.window = self.state["log"], self.state["window"]
            if machine.first:
                say(f"going on at step {self.first} of {self.total}")
                resume.compare(self.state["provenance"], self.provenance)
        if machine.first:
            for name in (out, self.folder / "last.pt"):
                name.unlink(missing_ok=True)  # a folder that looks complete must be complete
        self.lines = Log(self.folder / "log.jsonl", text, active=machine.first)
        if not text:
            self._event(
                "start", settings=self.recorded, digest=self.digest, provenance=self.provenance,
                data=data,
            )  # fmt: skip
        self.tracker = Delivery(self.folder, settings, active=machine.first)
        self.progress = Progress(label, self.total, self.first, active=machine.first)
        self.images, self.since, self.stop = 0, time.monotonic(), Stop()
        self.remarks: list[str] = []

    def __enter__(self) -> Session:
        self.open = contextlib.ExitStack()
        for part in (self.stop, self.progress, self.lines):
            self.open.enter_context(part)
        return self

    def __exit__(self, *error: Any) -> None:
        self.open.__exit__(*error)

    def steps(self) -> Iterator[int]:
        """The remaining steps, counted from 1."""
        for step in range(self.first + 1, self.total + 1):
            self.step = step
            yield step

    @property
    def last(self) -> bool:
        """Whether this step is the last one."""
        return self.step == self.total

    @property
    def validation_is_due(self) -> bool:
        """Every `validate_every` steps, and after the last one."""
        return self.step % self.settings.validate_every == 0 or self.last

    def add(self, terms: Tensor, names: Sequence[str] = ()) -> None:
        """Record the unweighted loss terms of a step, (n,); refuse NaN and explosion.

        names: of the terms, if a step has others than the session.

        Raises:
            Diverged: names the step and the term.
        """
        if names:
            self.watch.names = [*names]
        self.watch.add(self.step, terms)
        self.progress.step()
        self.images += self.settings.batch

    def log(
        self,
        with_means: dict[str, float] | None = None,
        more: dict[str, float] | None = None,
        *,
        due: bool = False,
    ) -> None:
        """Log the means of the terms when they are due, and `more` at any step.

        with_means: logged with the means. due: log now, whatever `log_every` says.
        """
        metrics = dict(more or {})
        if self.step % self.settings.log_every == 0 or self.last or due:
            means = self.watch.means() | (with_means or {})
            means["images_per_second"] = self.images / (time.monotonic() - self.since)
            self.progress.show(means)
            metrics = means | metrics
            self.images, self.since = 0, time.monotonic()
        if metrics:
            self.lines.metrics(self.step, "train", metrics)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Encloses a validation, whose time does not count as training time."""
        self.watch.look()
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def validated(
        self, split: str, metrics: dict[str, Any], *, score: Sequence[float], network: nn.Module
    ) -> None:
        """Log a split's metrics; keep the network if `validation` has the best score so far.

        score: compared number by number, the larger the better; a score that is not finite is
        never the best.
        """
        self.lines.metrics(self.step, split, metrics)
        self.progress.show(metrics, split)
        finite = split == "validation" and all(map(math.isfinite, score))
        if finite and [*score] > self.best["score"]:
            weights = checkpoint.to_cpu(network.state_dict())
            self.best = {"score": [*score], "step": self.step, "weights": weights, "metrics": {}}
        if self.best["step"] == self.step:
            self.best["metrics"][split] = metrics

    def save(self, *, due: bool = False, **more: Any) -> None:
        """Write the state when it is due, or when a signal asks to stop.

        due: write now, regardless of `checkpoint_every`. more: also goes into the state.

        Raises:
            Interrupted: a signal asked for it. Diverged: weights are not finite.
        """
        asked = self.stop.asked(self.machine)
        if self.step % self.settings.checkpoint_every == 0 or self.last or asked or due:
            self.watch.look()
            for part in self.parts.values():
                if isinstance(part, nn.Module):
                    check_weights(part, self.step)
            resume.save(
                self.folder,
                self.machine,
                step=self.step,
                digest=self.digest,
                parts=self.parts,
                best=self.best,
                log=self.lines.text,
                window=self.watch.window,
                provenance=self.provenance,
                seconds=self.spent,
                **more,
            )
            self.tracker.nudge()
        if asked and not self.last:
            raise Interrupted(
                f"stopped by {self.stop.name} after step {self.step} of {self.total}; the state is "
                f"in {self.folder}, the same command goes on from it"
            )

    @property
    def spent(self) -> float:
        """Seconds of training, over all starts."""
        return self.seconds + time.monotonic() - self.began

    def remark(self, text: str) -> None:
        """Put what a reader of the results must know into terminal, log and checkpoint."""
        say(f"warning: {self.label}: {text}")
        self._event("warning", text=text)
        self.remarks.append(text)

    def finish(self, *, network: nn.Module, learned: Path | None = None, **how: Any) -> None:
        """Write last.pt, and best.pt with the weights of the best validation.

        learned: the training store; the checkpoints then say what is in it.
        how: model_name, options and scale, as `checkpoint.save` takes them.

        Raises:
            Diverged: no validation gave a finite score.
        """
        if self.machine.first:
            if not self.best["weights"]:
                raise Diverged(
                    f"{self.label}: no validation gave a finite score, so there is no best step; "
                    "check the validation slices, or lower optimizer.lr"
                )
            if learned is not None:
                how["trained_on"] = known.about(learned)
            self.write(self.folder / "last.pt", network.state_dict(), self.total, **how)
            best = self.best
            self.complete(best["weights"], best["step"], metrics=best["metrics"], **how)
            found = numbers(best["metrics"]["validation"])
            say(
                f"{self.label}: best validation {found} at step {best['step']}, "
                f"{clock(self.spent)}, {self.out}"
            )
        self.tracker.finish()

    def complete(self, weights: dict[str, Tensor], step: int, **how: Any) -> None:
        """End the log, write the checkpoint last of all, and remove the state."""
        self._event("end", best_step=step, seconds=self.spent)
        self.write(self.out, weights, step, **how)
        resume.clear(self.folder)

    def write(
        self, path: Path, weights: dict[str, Tensor], step: int, *, model_name: str,
        options: dict[str, Any], scale: int, **more: Any,
    ) -> None:  # fmt: skip
        """Write a checkpoint of these weights; `more` goes into its provenance."""
        checkpoint.save(
            path,
            model_name=model_name,
            options=options,
            scale=scale,
            settings=self.recorded,
            weights=weights,
            provenance={
                **self.provenance,
                "settings_digest": self.digest,
                "steps": self.settings.steps,
                "step": step,
                "warnings": self.remarks,
                **more,
            },
        )

    def _event(self, name: str, **more: Any) -> None:
        self.lines.write({"event": name, "time": time.time(), **more})


def digests_of(stores: Sequence[Path | None]) -> list[str]:
    """Digests of the slice stores: a training resumes only with the same ones."""
    return [str(attributes(path).get("digest", "")) for path in stores if path is not None]

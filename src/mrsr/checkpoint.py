"""A checkpoint: weights, the settings that built them, and their provenance.

Nothing else is needed to load one: `network("best.pt")` gives the network ready for use. Files are
read with `weights_only=True`, so a file from elsewhere cannot execute code; what does not look
like a checkpoint is refused in one line. The same weights and settings give the same bytes. The
file includes a SHA-256 of its content, which is checked: torch alone loads flipped bits silently.

By hand: `python -m mrsr.checkpoint best.pt` prints everything but the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrsr import models
from mrsr.errors import UserError, guarded
from mrsr.files import atomic
from mrsr.params.declared import OTHER_NETWORKS

FORMAT = 2
WITHOUT_DIGEST = 1  # the format before; read as it is

# what a checkpoint is, by its network; every other network is for super-resolution
SR, KINDS = "super-resolution network", OTHER_NETWORKS
AUTOENCODER, VIT = KINDS["autoencoder"], KINDS["unetr"]
# what people give by mistake, by the first bytes
HEADS = {
    b"mrsr-resume": "the state of an unfinished training",
    b"\x89HDF": "an HDF5 file, such as a slice store",
    b"\x1f\x8b": "a compressed file, such as a scan",
}
MADE_AS = {
    SR: "<dataset>/x<scale>/<method>",
    AUTOENCODER: "<dataset>/x<scale>/autoencoder",
    VIT: "vit/<phase>",
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a file holds; `weights` is a state dict on the CPU, `settings` the job's, plain.

    `kind` is one of `SR`, `AUTOENCODER` and `VIT`.
    """

    model_name: str
    options: dict[str, Any]
    scale: int
    weights: dict[str, Tensor]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    kind: str = SR


_TYPES = {
    "model": str,
    "options": dict,
    "scale": int,
    "weights": dict,
    "settings": dict,
    "provenance": dict,
}


def _git(*arguments: str) -> tuple[str, str]:
    """What a git command about the code that runs prints, and why it failed; one is empty."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=Path(__file__).parent,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
        )
    except FileNotFoundError:
        return "", "git is not installed"
    except (OSError, subprocess.SubprocessError):
        return "", "git did not answer"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return "", next((why for sign, why in NO_ANSWER.items() if sign in done.stderr), "git failed")


# git's message contains -> what is recorded; its own words would name folders of the machine
NO_ANSWER = {
    "dubious ownership": "the repository belongs to another user; allow it with `git config "
    "--global --add safe.directory` and its folder",
    "not a git repository": "the code is in no git repository",
    "did not match any file": "the code is not tracked by the repository around it",
    "unknown revision": "the repository has no commit",
    "ambiguous argument": "the repository has no commit",
}


def commit() -> tuple[str, str]:
    """Commit of the code, `+dirty` when tracked files differ, and why there is none.

    `MRSR_COMMIT` gives it where git cannot (an installed package outside a repository).
    """
    # an installed copy may lie inside somebody else's repository: only our own counts
    tracked, why = _git("ls-files", "--error-unmatch", Path(__file__).name)
    if tracked:
        sha, why = _git("rev-parse", "HEAD")
        if sha:
            changed, _ = _git("status", "--porcelain", "--untracked-files=no")
            return sha + ("+dirty" if changed else ""), ""
    known = os.environ.get("MRSR_COMMIT", "")
    return known, "" if known else why


def provenance() -> dict[str, Any]:
    """Where weights come from: commit, versions, threads. No host, user or path.

    Without a commit, `no_commit` says why there is none.
    """
    sha, why = commit()
    return {
        "commit": sha,
        **({"no_commit": why} if why else {}),
        "torch": str(torch.__version__),  # a str subclass there, which weights_only refuses
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def to_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors on the CPU, in the ordinary memory layout."""
    return {
        key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in weights.items()
    }


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a checkpoint's content: the tensors' names, types, shapes and bytes, and the rest.

    content: as `save` writes it, `weights` on the CPU; its own `sha256` does not count.
    """
    rest = {key: value for key, value in content.items() if key not in ("weights", "sha256")}
    total = hashlib.sha256(json.dumps(rest, sort_keys=True, default=repr).encode())
    for name, tensor in content["weights"].items():
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def save(
    path: str | Path,
    *,
    model_name: str,
    options: dict[str, Any],
    scale: int,
    weights: dict[str, Tensor],
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a checkpoint atomically. `options`, `settings`, `provenance`: JSON-like values."""
    content = {
        "format": FORMAT,
        "kind": KINDS.get(model_name, SR),
        "model": model_name,
        "options": options,
        "scale": scale,
        "weights": to_cpu(weights),
        "settings": settings,
        "provenance": provenance,
    }
    content["sha256"] = content_digest(content)
    # given a path, torch writes the file's name into the archive; given a handle it does not, and
    # equal content has equal bytes
    with atomic(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def _whole(content: dict[str, Any]) -> bool:
    """Whether the content has the digest it should have; files of the format before had none."""
    expected = content.get("sha256", "")
    if not expected and content["format"] == WITHOUT_DIGEST:
        return True
    try:
        return bool(expected == content_digest(content))
    except (TypeError, ValueError, RuntimeError):  # keys or tensors of a kind that none is made of
        return False


def load(path: str | Path, wanted: str = "") -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Args:
        path: the file.
        wanted: the kind that the caller can use: `SR`, `AUTOENCODER` or `VIT`; empty: any.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint, of another kind, or holds more
            than data.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles that torch.save would not have made
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train first, or check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the .pt file in it") from None
    except PermissionError:
        raise UserError(f"{path}: not readable; check its permissions") from None
    except pickle.UnpicklingError:
        if what := _by_head(path):
            raise UserError(f"{path} is {what}, not a checkpoint; {_give(wanted)}") from None
        raise UserError(
            f"{path} is not a checkpoint, or holds code beside the weights, which is never run; "
            "use one that mrsr wrote"
        ) from None
    except Exception:
        # torch raises RuntimeError, EOFError, ValueError, KeyError... by the kind of damage
        raise UserError(
            f"{path} is damaged or not a checkpoint; copy it again or retrain"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise UserError(f"{path} is {_foreign(content)}, not a checkpoint of mrsr; {_give(wanted)}")
    if content["format"] not in (FORMAT, WITHOUT_DIGEST):
        raise UserError(
            f"{path} has format {content['format']}, this version reads {FORMAT}; update mrsr"
        )
    for key, kind in _TYPES.items():
        if not isinstance(content.get(key), kind):
            raise UserError(f"{path}: no valid '{key}' inside; use a file that `mrsr` trained")
    if not all(isinstance(value, Tensor) for value in content["weights"].values()):
        raise UserError(f"{path}: its weights are not all tensors; use a file that `mrsr` trained")
    if not _whole(content):
        raise UserError(
            f"{path} is damaged: its content does not have its checksum; copy it again or retrain"
        )
    # files of earlier versions name their network alone
    kind = content.get("kind", KINDS.get(content["model"], SR))
    if wanted and kind != wanted:
        raise UserError(f"{path} is {_a(kind)}, not {_a(wanted)}; {_give(wanted)}")
    named = {key: content[key] for key in _TYPES if key != "model"}
    return Checkpoint(model_name=content["model"], kind=kind, **named)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _give(wanted: str) -> str:
    """What to do instead."""
    folder = MADE_AS.get(wanted, "...")
    return f"give results/<experiment>/checkpoints/{folder}/best.pt"


def _by_head(path: Path) -> str:
    """What a file is that torch cannot read, by its first bytes; empty if nothing is known."""
    with open(path, "rb") as file:
        head = file.read(16)
    return next((what for start, what in HEADS.items() if head.startswith(start)), "")


def _foreign(content: Any) -> str:
    """What a file of torch is that mrsr did not write as a checkpoint."""
    if isinstance(content, Tensor):
        return "a single tensor"
    if not isinstance(content, dict):
        return f"a file with a {type(content).__name__} inside"
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return "a file of weights alone"
    return "a table of something else"


def part_of(key: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one of several networks in a checkpoint (`train_self.py`), named by a key."""
    return {f"{key}/{name}": tensor for name, tensor in weights.items()}


def adopt_part(network: nn.Module, saved: Checkpoint, key: str) -> None:
    """Load the weights of network `key`, of several, into `network`.

    Raises:
        UserError: the checkpoint has no such network, or it is of another shape.
    """
    prefix = f"{key}/"
    own = {n.removeprefix(prefix): t for n, t in saved.weights.items() if n.startswith(prefix)}
    if not own:
        raise UserError(f"the checkpoint has no weights for volume {key}; train it again")
    try:
        network.load_state_dict(own)
    except RuntimeError:
        raise UserError(
            f"the checkpoint's weights for volume {key} do not fit model '{saved.model_name}' with "
            "the options asked for; train it again"
        ) from None


def network(path: str | Path, device: str | torch.device = "cpu", wanted: str = "") -> nn.Module:
    """The network of a checkpoint: built, weights loaded, on `device`, in evaluation mode.

    Raises:
        UserError: see `load`; or the weights do not fit the network that the file names.
    """
    checkpoint = load(path, wanted)
    try:
        built = models.build(checkpoint.model_name, checkpoint.scale, checkpoint.options)
        built.load_state_dict(checkpoint.weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError):
        raise UserError(
            f"{path}: its weights do not fit model '{checkpoint.model_name}' of this version; "
            "retrain, or use the version that wrote it"
        ) from None
    return built.to(device).eval()


@guarded
def main(arguments: list[str] | None = None) -> None:
    """Print what a checkpoint says about itself."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        raise UserError("usage: python -m mrsr.checkpoint FILE.pt")
    content = dataclasses.asdict(load(given[0]))
    weights = content.pop("weights")
    content["parameters"] = sum(tensor.numel() for tensor in weights.values())
    print(json.dumps(content, indent=2, default=str))


if __name__ == "__main__":
    main()

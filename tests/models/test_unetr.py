"""UNETR and its collapse to slices: `pytest tests/models/test_unetr.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mrsr import checkpoint, models
from mrsr.errors import UserError
from mrsr.method import features
from mrsr.models import unetr

SMALL = {
    "hidden": 24, "layers": 4, "heads": 3, "mlp": 48, "size": [32, 32, 48], "feature_size": 2,
    "classes": 3,
}  # fmt: skip


def make(**changes: object) -> nn.Module:
    """A small UNETR from a seed, with biases and positions of some size."""
    torch.manual_seed(0)
    network = models.build("unetr", 1, {**SMALL, **changes})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name or "position" in name:
                parameter.normal_(std=0.3)
    return network.eval()


def save(path: Path, network: nn.Module, **options: object) -> Path:
    checkpoint.save(
        path, model_name="unetr", options={**SMALL, **options}, scale=1,
        weights=network.state_dict(), settings={}, provenance={},
    )  # fmt: skip
    return path


def test_segments_and_dead_parameters_are_frozen() -> None:
    network = make(layers=5)
    assert network(torch.rand(2, 1, 32, 32, 48)).shape == (2, 3, 32, 32, 48)
    network(torch.rand(2, 1, 32, 32, 48)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == ("norm_cross_attn" not in name), name
        assert (parameter.grad is None) == ("norm_cross_attn" in name), name
    assert all(block.attn.use_flash_attention for block in network.vit.blocks)


def test_twelve_layers_give_what_monai_gives() -> None:
    from monai.networks.nets.unetr import UNETR

    network = make(layers=12)
    theirs = UNETR(1, 3, [32, 32, 48], 2, 24, 48, 3).eval()
    theirs.load_state_dict(network.state_dict())
    volume = torch.rand(1, 1, 32, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(volume), theirs(volume), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 48), (64, 48)])
def test_collapse_equals_the_3d_encoder_on_a_slab_of_repeats(size: tuple[int, int]) -> None:
    network = make()
    flat = unetr.collapse(network.state_dict(), SMALL).eval()
    grid = (size[0] // 16, size[1] // 16)
    slab = make(size=[16, *size])
    weights = network.state_dict() | {
        # the same positions: averaged over depth, interpolated to the slice's grid
        "vit.patch_embedding.position_embeddings": flat.position(grid).detach()
    }
    slab.load_state_dict(weights)
    image = torch.rand(2, 1, *size)
    with torch.no_grad():
        last, states = slab.vit(image[:, :, None].expand(-1, -1, 16, -1, -1))
        ours = flat(image)
    assert len(ours) == len(states) + 1
    for one, other in zip(ours, [*states, last], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    depth = network.vit.patch_embedding.position_embeddings.detach().view(2, 6, 24)
    torch.testing.assert_close(flat.position((2, 3))[0], depth.mean(0))


def test_states_can_be_chosen_and_any_size_is_padded() -> None:
    flat = unetr.collapse(make().state_dict(), SMALL).eval()
    image = torch.rand(1, 1, 33, 50)
    everything = flat(image)
    assert [tuple(state.shape) for state in everything] == [(1, 12, 24)] * 5
    chosen = flat(image, [-1, 1, 4])
    for state, number in zip(chosen, (4, 1, 4), strict=True):
        assert torch.equal(state, everything[number])
    with pytest.raises(UserError, match="hidden state 5"):
        flat(image, [5])


def test_load_encoder_is_frozen_and_passes_gradients_to_the_image(tmp_path: Path) -> None:
    network = make()
    flat = unetr.collapse(network.state_dict(), SMALL)
    image = torch.rand(1, 1, 32, 48, requires_grad=True)
    expected = flat.eval()(image)[-1].detach()
    for path in (
        save(tmp_path / "3d.pt", network),
        save(tmp_path / "2d.pt", flat, dimensions=2),
    ):
        encoder = features.load_encoder(path)
        assert not encoder.training
        found = encoder(image)[-1]
        assert torch.equal(found, expected)
        image.grad = None
        found[:, 0, 0].sum().backward()
        assert image.grad.abs().max() > 0
        assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())


def test_load_encoder_needs_no_monai(tmp_path: Path) -> None:
    path = save(tmp_path / "3d.pt", make())
    code = (
        "import sys; sys.modules['monai'] = None\n"
        "from mrsr.method.features import load_encoder\n"
        f"load_encoder({str(path)!r}); print('nibabel' in sys.modules, 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_users_weights_and_each_mismatch_by_key(tmp_path: Path) -> None:
    network, path = make(), tmp_path / "theirs.pt"
    weights: dict[str, Tensor] = network.state_dict()
    # as DataParallel and older versions of MONAI save them
    older = {f"module.{k}": v for k, v in weights.items() if "norm_cross_attn" not in k}
    torch.save({"state_dict": older, "epoch": 3}, path)
    torch.manual_seed(1)
    other = models.build("unetr", 1, SMALL)
    unetr.load_weights(other, path)
    assert all(
        torch.equal(other.state_dict()[k], v) for k, v in weights.items() if "cross" not in k
    )

    wrong = dict(weights)
    wrong.pop("vit.norm.bias")
    wrong["extra"] = torch.zeros(1)
    wrong["out.conv.conv.bias"] = torch.zeros(14)
    torch.save(wrong, path)
    with pytest.raises(UserError) as caught:
        unetr.load_weights(other, path)
    for part in (
        "vit.norm.bias is missing",
        "extra is not in the network",
        "out.conv.conv.bias is [14], the network has [3]",
    ):
        assert part in str(caught.value)


def test_weights_that_are_none_are_refused_and_code_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "ran"),)

    network = make()
    for name, value in (("bomb", {"a": Bomb()}), ("list", [1, 2]), ("text", {"a": "b"})):
        torch.save(value, tmp_path / name)
        with pytest.raises(UserError):
            unetr.load_weights(network, tmp_path / name)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "junk").write_bytes(b"junk")
    for name in ("junk", "none"):
        with pytest.raises(UserError):
            unetr.load_weights(network, tmp_path / name)


@pytest.mark.slow
def test_full_size_has_the_known_parameters() -> None:
    network = unetr.build(classes=14)
    counts = [
        sum(p.numel() for p in network.parameters() if p.requires_grad is b) for b in (True, False)
    ]
    assert counts[1] == 18432
    assert sum(counts) == pytest.approx(92.80e6, rel=1e-3)

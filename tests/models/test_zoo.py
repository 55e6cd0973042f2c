"""Every network of every method: what all of them owe. `pytest tests/models/test_zoo.py`

What is a network's own (its published size, the part that names it) stands in test_model_<key>.py.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrsr import inference, models
from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.params.declared import model_is_guided, model_options, model_scales
from mrsr.resampling import degrade, upsample
from mrsr.tables import network_sizes
from project import ROOT

FULL = loading.load(ROOT / "params.yaml").full_methods
# what stands for a network in tests: few maps, every part there
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "bicubic": ("bicubic", {}),
    "pseudo_inverse": ("pseudo_inverse", {}),
    "srcnn": ("srcnn", {"features": [8, 4]}),
    "srresnet": ("srresnet", {"features": 8, "blocks": 2}),
    "lyu": ("lyu", {"features": 4, "blocks": 1}),
    "vdsr": ("vdsr", {"features": 4, "layers": 4}),
    "csn": ("csn", {"features": 8, "growth": 4, "layers": 2, "units": 2, "blocks": 2}),
    "rdn": ("rdn", {"features": 4, "blocks": 3, "layers": 2, "growth": 3}),
    "t2net": ("t2net", {"features": 8, "blocks": 2}),
    "t2net_no_transfer": ("t2net", {"features": 8, "blocks": 2, "transfer": "none"}),
    "rcan": ("rcan", {"features": 8, "groups": 2, "blocks": 1, "reduction": 4}),
    "minet": ("minet", {"features": 8, "groups": 2, "blocks": 1, "reduction": 2}),
    "seran": ("seran", {"features": 8, "blocks": 2, "descriptors": 4, "width": 4}),
    "swinir": (
        "swinir",
        {"embed": 8, "depths": [2], "heads": 2, "window": 4, "features": 6},
    ),
    "edsr": ("edsr", {"features": 8, "blocks": 2}),
    "fb_gacn": (
        "fb_gacn",
        {"features": 16, "blocks": 1, "iterations": 2, "patch": 4, "neighbours": 3, "heads": 2},
    ),
    "smore": ("smore", {"features": 6, "blocks": 2}),
    "srgan": ("srgan", {"features": 6, "blocks": 2}),
    "fused": (
        "fused",
        {
            "features": 8, "blocks": 2, "width": 4, "networks": "joint",
            "vit": {
                "hidden": 8, "layers": 2, "heads": 2, "mlp": 8, "size": [32, 32, 32],
                "feature_size": 1,
            },
            "autoencoder": {
                "structure_channels": 2, "texture": 8, "size": 0, "channels": [4, 4, 4, 4],
            },
        },
    ),
}  # fmt: skip
# options that change which layers there are
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "srcnn_gaussian": ("srcnn", {"features": [8, 4], "kernels": [9, 5, 5], "init": "gaussian"}),
    "srresnet_plain": ("srresnet", {"features": 8, "blocks": 2, "norm": "none", "last_kernel": 3}),
    "srgan_plain": ("srgan", {"features": 6, "blocks": 2, "norm": "none"}),
    "lyu_one_level": ("lyu", {"features": 4, "blocks": 1, "progressive": False}),
    "lyu_pixels": ("lyu", {"features": 4, "blocks": 1, "fusion": "pixels"}),
    "t2net_windows": ("t2net", {"features": 6, "blocks": 2, "window": 4}),
    "fused_trained": ("fused", {**SMALL["fused"][1], "networks": "trained"}),
    "fused_own": ("fused", {**SMALL["fused"][1], "networks": "own"}),
    "swinir_direct": ("swinir", {**SMALL["swinir"][1], "upsampler": "pixelshuffledirect"}),
}
EVERY = SMALL | VARIANTS
UNTRAINED = ("bicubic", "pseudo_inverse")
TRAINED = [key for key in EVERY if key not in UNTRAINED]
CASES = [(key, scale) for key in EVERY for scale in model_scales(EVERY[key][0])]
TRAINED_CASES = [case for case in CASES if case[0] not in UNTRAINED]


def make(key: str, scale: int, seed: int = 0) -> nn.Module:
    """A small network from a seed."""
    torch.manual_seed(seed)
    name, options = EVERY[key]
    return models.build(name, scale, options)


def given(key: str, lr: Tensor, scale: int) -> list[Tensor]:
    """What forward takes: a guide with other intensities, and edges where the target has them."""
    if not model_is_guided(EVERY[key][0]):
        return [lr]
    return [lr, 1 - upsample(lr, scale).square()]


def has_skip(key: str) -> bool:
    """Whether the network may add the interpolated input."""
    return "skip" in (model_options(EVERY[key][0]) or [])


def discs(scale: int, count: int = 2, size: int = 8) -> tuple[Tensor, Tensor]:
    """LR and HR of discs: edges, which interpolation blurs."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size * scale)] * 2, indexing="ij")
    hr = torch.stack([(x**2 + y**2 < 0.2 * (i + 1)).float() for i in range(count)])[:, None]
    return degrade(hr, scale, "bicubic"), hr


def test_every_method_is_here() -> None:
    used = {(method.model, method.options.get("transfer", "")) for method in FULL.values()}
    here = {(name, options.get("transfer", "")) for name, options in SMALL.values()}
    assert used <= here
    keys = (
        "srcnn vdsr edsr rdn csn seran t2net t2net_no_transfer fb_gacn smore lyu minet srresnet "
        "srgan rcan swinir"
    )
    assert set(keys.split()) <= set(FULL)


@pytest.mark.parametrize(("key", "scale"), CASES)
def test_any_shape_at_each_scale(key: str, scale: int) -> None:
    network = make(key, scale).eval()
    for height, width in ((12, 12), (9, 13), (5, 5), (4, 12)):
        lr = torch.rand(2, 1, height, width)
        with torch.no_grad():
            sr = inference.forward(network, lr, scale, *given(key, lr, scale)[1:])
        assert sr.shape == (2, 1, height * scale, width * scale)
        assert torch.isfinite(sr).all()


@pytest.mark.parametrize(("key", "scale"), TRAINED_CASES)
def test_no_parameter_is_unused(key: str, scale: int) -> None:
    network = make(key, scale).train()
    lr, hr = discs(scale)
    for _ in range(2):  # gates that start neutral let no gradient through before the second step
        sr, aside = models.outputs(network(*given(key, lr, scale)))
        total = (sr - hr).square().mean() + sum(x.square().mean() for x in aside.values())
        network.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 1e-3 * parameter.grad
    for name, parameter in network.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("key", [*(key for key in SMALL if key in TRAINED), "srresnet_plain"])
def test_a_batch_is_overfitted_below_bicubic(key: str) -> None:
    network = make(key, 2).train()
    lr, hr = discs(2)
    aim = 0.7 * (upsample(lr, 2) - hr).square().mean().item()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        sr, aside = models.outputs(network(*given(key, lr, 2)))
        loss = (sr - hr).square().mean()
        if loss.item() < aim:
            break
        (loss + 0.1 * sum(x.square().mean() for x in aside.values())).backward()
        optimizer.step()
    assert loss.item() < aim


@pytest.mark.parametrize("key", EVERY)
def test_the_state_survives_a_round_trip(key: str) -> None:
    one, two = make(key, 2), make(key, 2, seed=1)
    lr = torch.rand(1, 1, 10, 9)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    two.load_state_dict(torch.load(buffer, weights_only=True))
    inputs = given(key, lr, 2)
    with torch.no_grad():
        assert torch.equal(one.eval()(*inputs), two.eval()(*inputs))


@pytest.mark.parametrize("key", TRAINED)
def test_the_seed_decides(key: str) -> None:
    one, two, other = make(key, 2), make(key, 2), make(key, 2, seed=1)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    inputs = given(key, torch.rand(1, 1, 10, 10), 2)
    one, again, other = one.eval(), copy.deepcopy(one).eval(), other.eval()
    with torch.no_grad():
        assert torch.equal(one(*inputs), again(*inputs))
        assert not torch.equal(one(*inputs), other(*inputs))


@pytest.mark.parametrize("key", TRAINED)
def test_bf16_is_near_fp32(key: str) -> None:
    network = make(key, 2).eval()
    inputs = given(key, torch.rand(1, 1, 12, 12), 2)
    with torch.no_grad():
        full = network(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(*inputs)
    assert torch.isfinite(half).all()
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean() + 0.01


@pytest.mark.parametrize("key", TRAINED)
def test_double_stays_double(key: str) -> None:
    """And tells how far rounding alone takes an output in single precision."""
    network = make(key, 2).eval()
    inputs = given(key, torch.rand(1, 1, 9, 12), 2)
    with torch.no_grad():
        single = network(*inputs)
        double = network.double()(*[image.double() for image in inputs])
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("key", [key for key in TRAINED if has_skip(key)])
def test_with_the_skip_training_starts_near_bicubic(key: str) -> None:
    name, options = EVERY[key]
    torch.manual_seed(0)
    network = models.build(name, 2, {**options, "skip": "bicubic"}).eval()
    lr = torch.rand(2, 1, 9, 10)
    with torch.no_grad():
        sr, before = network(*given(key, lr, 2)), upsample(lr, 2)
    assert 0 < (sr - before).abs().mean() < 0.05


@pytest.mark.parametrize("key", SMALL)
def test_a_scale_that_it_does_not_know_is_refused(key: str) -> None:
    name, options = SMALL[key]
    with pytest.raises(UserError, match=f"{name}: scale must be one of .* not 5"):
        models.build(name, 5, options)


@pytest.mark.parametrize("key", list(FULL))
def test_full_width_is_counted_without_computing(key: str) -> None:
    method = FULL[key]
    parameters, work = network_sizes.count(method.model, method.options, 2)
    assert (parameters > 0) == method.trained and work > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", sorted({method.model for method in FULL.values()} - set(UNTRAINED))
)
def test_published_size_takes_a_step(model: str) -> None:
    """Forward, backward and one optimizer step at the width that build() has by default."""
    scale = model_scales(model)[0]
    torch.manual_seed(0)
    network = models.build(model, scale, {}).train()
    lr = torch.rand(1, 1, 16, 16)
    hr = upsample(lr, scale)
    inputs = [lr, hr] if model_is_guided(model) else [lr]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    before = [p.detach().clone() for p in network.parameters()]
    for _ in range(2 if model == "fused" else 1):  # whose gates start neutral
        sr, aside = models.outputs(network(*inputs))
        loss = (sr - hr).abs().mean() + sum(x.abs().mean() for x in aside.values())
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert all(changed) and all(torch.isfinite(p).all() for p in network.parameters())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("model", ["srresnet", "srgan", "edsr", "rcan", "seran", "csn"])
def test_without_a_skip_training_starts_from_an_image(
    model: str, scale: int, training: bool
) -> None:
    """Not from noise as strong as the image, of which ReLUs die."""
    sizes = {"csn": {"features": 32, "growth": 8, "blocks": 2}}
    options = sizes.get(model, {"features": 32, "blocks": 2})
    torch.manual_seed(0)
    network = models.build(model, scale, {**options, "skip": "none"}).train(training)
    lr = upsample(torch.rand(2, 1, 6, 6), 4).clamp(0, 1)
    with torch.no_grad():
        started, image = network(lr).flatten(), upsample(lr, scale).flatten()
    assert torch.corrcoef(torch.stack([started, image]))[0, 1] > 0.8
    assert 0.5 < started.std() / image.std() < 2

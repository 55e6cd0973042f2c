"""The auto-encoder, its start, its terms and its probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mrsr import models, resampling
from mrsr.errors import UserError
from mrsr.method import discriminator, disentangling
from mrsr.method.adversarial import frozen
from mrsr.metrics import probe
from mrsr.models import autoencoder

SMALL = {"channels": [8, 8, 4, 4], "texture": 16, "structure_channels": 2, "size": 0}


def blobs(count: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Discs and gratings of several contrasts, (count, 1, size, size)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    images = np.zeros((count, 1, size, size), dtype=np.float32)
    for image in images[:, 0]:
        for _ in range(8):
            cy, cx, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.3)
            image += rng.uniform(0.1, 0.4) * (np.hypot(y - cy, x - cx) < radius)
        image *= rng.uniform(0.5, 1.0)
        image += 0.05 * np.sin(40 * x * rng.uniform(0.5, 1.5))
    return torch.from_numpy(images)


def test_codes_have_the_printed_shapes() -> None:
    network = models.build("autoencoder", 2, {})
    kernels = [block.weight.shape for block in network.encoder.blocks]
    assert kernels == [(64, 1, 3, 3), (64, 64, 3, 3), (32, 64, 3, 3), (32, 32, 3, 3)]
    with torch.no_grad():
        z_str, z_tex = network.encode(torch.rand(1, 1, 256, 256))
        assert z_str.shape == (1, 8, 64, 64) and z_tex.shape == (1, 256)
        assert network.decode(z_str, z_tex).shape == (1, 1, 256, 256)
    printed = autoencoder.build(2, structure_channels=1, pooling="max")
    assert printed.encode(torch.rand(2, 1, 64, 32))[0].shape == (2, 1, 16, 8)


def test_structure_says_nothing_about_brightness_and_texture_nothing_about_place() -> None:
    network = autoencoder.build(2)
    image = F.pad(blobs(1), [32] * 4)  # the shift below must not touch the border
    with torch.no_grad():
        z_str, z_tex = network.encode(image)
        assert z_str.mean(dim=(-2, -1)).abs().max() < 1e-4
        plain = z_str / network.encoder.gain
        assert plain.square().mean().item() == pytest.approx(1, abs=1e-3)
        darker, _ = network.encode(0.5 * image)
        assert F.cosine_similarity(darker.flatten(), z_str.flatten(), dim=0) > 0.999
        _, moved = network.encode(image.roll((16, 16), dims=(-2, -1)))
    assert F.cosine_similarity(moved, z_tex) > 0.9999


@pytest.mark.parametrize("fewer, channels", [(1, 4), (4, 8), (8, 12)])
def test_the_linear_start_reconstructs_and_more_channels_do_it_better(
    fewer: int, channels: int
) -> None:
    image = blobs(2, size=128)

    def error(other: torch.Tensor) -> float:
        return (other - image)[..., 8:-8, 8:-8].square().mean().item()

    with torch.no_grad():
        networks = [autoencoder.build(2, structure_channels=n) for n in (fewer, channels)]
        before, after = (error(network(image)) for network in networks)
    assert after < before
    if channels >= 8:
        bicubic = resampling.upsample(resampling.degrade(image, 2, "bicubic"), 2)
        assert after < 1.1 * error(bicubic)


def test_random_start_and_small_networks_start_random() -> None:
    torch.manual_seed(0)
    network = autoencoder.build(2, start="random")
    assert (network(blobs(1)) - blobs(1)).square().mean() > 1e-3
    small = autoencoder.build(2, **SMALL)
    assert small(torch.rand(2, 1, 32, 48)).shape == (2, 1, 32, 48)


def test_prepare_resizes_to_the_hr_grid_and_pads_or_crops_alike() -> None:
    hr = blobs(1, size=40).requires_grad_(True)
    lr = resampling.degrade(hr, 2, "bicubic")
    on_grid = autoencoder.prepare(lr, (40, 40), 0)
    assert on_grid.shape == (1, 1, 48, 48)
    assert torch.allclose(autoencoder.unprepare(on_grid, (40, 40)), resampling.upsample(lr, 2))
    padded, cropped = (autoencoder.prepare(hr, (40, 40), size) for size in (256, 32))
    assert padded.shape[-2:] == (256, 256) and cropped.shape[-2:] == (32, 32)
    assert (
        torch.equal(padded[..., 108:148, 108:148], hr)
        and padded.count_nonzero() == hr.count_nonzero()
    )
    assert torch.equal(cropped, hr[..., 4:36, 4:36])
    on_grid.sum().backward()
    assert hr.grad.abs().sum() > 0


def test_centre_patches_show_the_same_region() -> None:
    hr = blobs(1, size=64)
    lr = hr[..., ::2, ::2]
    low, high = disentangling.centre_patches(lr, hr, 10)
    assert low.shape[-2:] == (10, 10) and high.shape[-2:] == (20, 20)
    assert torch.equal(high[..., ::2, ::2], low)
    assert disentangling.centre_patches(lr, hr, 99)[1].shape == hr.shape


def test_share_is_zero_at_home_and_a_half_in_between() -> None:
    own, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert disentangling.share(own, own, other).item() == pytest.approx(0, abs=1e-5)
    assert disentangling.share(other, own, other).item() == pytest.approx(1, abs=1e-5)
    assert disentangling.share(own + other, own, other).item() == pytest.approx(0.5, abs=1e-5)


class Stub(nn.Module):
    """Codes that show which images met: structure is the sign pattern, texture the mean."""

    size = 0

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = image.mean(dim=(1, 2, 3))
        return image / mean[:, None, None, None], mean[:, None]

    def decode(self, z_str: torch.Tensor, z_tex: torch.Tensor) -> torch.Tensor:
        return z_str * z_tex[:, :, None, None]


def test_terms_against_hand_computed_values() -> None:
    """Eq. 3 to 6 on codes that are known: the swap is structure of x1, texture of x2."""
    image = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    image += torch.arange(1.0, 5.0)[:, None, None, None]
    lr = resampling.bicubic(image, (16, 16))

    def judge(images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))[:, None]

    weights = {"reconstruction": 1.0, "adversarial": 0.7, "swap": 0.7, "patch_swap": 1.0}
    each, made = disentangling.terms(Stub(), lr, image, weights, 8, judge)
    assert each["reconstruction"].item() == pytest.approx(0, abs=1e-6)
    means = image.mean(dim=(1, 2, 3))
    assert torch.allclose(made[2].mean(dim=(1, 2, 3)), means[[2, 3, 0, 1]])
    assert torch.allclose(
        made[2] / made[2].mean((1, 2, 3), True), image / image.mean((1, 2, 3), True)
    )
    for name in ("adversarial", "swap"):
        assert each[name].item() == pytest.approx(torch.log1p(torch.exp(-means)).mean().item())
    low, high = disentangling.centre_patches(lr, image, 8)
    low = resampling.bicubic(low, (16, 16))
    swapped = [a * (b.mean((1, 2, 3), True) / a.mean((1, 2, 3), True)) - a for a, b in
               ((low, high), (high, low))]  # fmt: skip
    expected = sum(part.abs().mean() for part in swapped) / 2
    assert each["patch_swap"].item() == pytest.approx(expected.item(), rel=1e-4)
    quiet, _ = disentangling.terms(Stub(), lr, image, weights, 8)
    assert set(quiet) == {"reconstruction", "patch_swap"}


def test_each_term_reaches_encoder_and_decoder_and_not_the_discriminator() -> None:
    torch.manual_seed(0)
    network, rival = autoencoder.build(2, **SMALL), discriminator.build(2, base=4, norm="none")
    hr = blobs(2, size=32)
    lr = resampling.degrade(hr, 2, "bicubic")

    def judge(images: torch.Tensor) -> torch.Tensor:
        with frozen(rival):
            return rival(images)

    weights = dict.fromkeys(disentangling.TERMS, 1.0)
    each, _ = disentangling.terms(network, lr, hr, weights, 8, judge)
    assert set(each) == set(disentangling.TERMS)
    for name, term in each.items():
        network.zero_grad()
        term.backward(retain_graph=True)
        for part in (network.encoder, network.decoder):
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()), (
                name
            )
    assert all(parameter.grad is None for parameter in rival.parameters())


def test_weights_are_checked() -> None:
    assert disentangling.active({"reconstruction": 1, "swap": 0}) == {"reconstruction": 1.0}
    grey = disentangling.active({"reconstruction": 1, "patch_swap": 0.5, "swap": 0.7}, 255)
    assert grey == {"reconstruction": 255, "patch_swap": 127.5, "swap": 0.7}
    with pytest.raises(UserError, match="no such term"):
        disentangling.active({"reconstruction": 1, "rec": 1})
    with pytest.raises(UserError, match="reconstruction"):
        disentangling.active({"swap": 1})


def test_probe_distances() -> None:
    one, two = torch.zeros(2, 3), torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    assert probe.euclidean(one, two).tolist() == [5.0, 1.0]
    image = torch.full((1, 1, 4, 4), 2.0)
    assert probe.psnr(image - 0.2, image).item() == pytest.approx(20.0, abs=1e-4)

"""Eq. 7 to 9: known values, gradients, frozen networks: `pytest tests/method/test_features.py`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from builders import write_frozen
from mrsr import models
from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.method import discriminator, features, gradients, losses
from mrsr.params.schema import Features
from mrsr.params.typed import build
from mrsr.resampling import degrade, upsample

EQ9 = {"adversarial": 1.0, "vit": 1.0, "structure": 1.0, "texture": 0.9}
COSINES = ("vit", "structure", "texture")
MACHINE = Machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_frozen(tmp_path_factory.mktemp("frozen"))


def load(paths: dict[str, Path], seed: int = 0, **changes: Any) -> features.Frozen:
    """Both frozen networks, with changes of the table `features`."""
    return features.load(EQ9, build(Features, changes), paths, MACHINE, seed)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """LR (2, 1, 20, 24) and HR (2, 1, 40, 48)."""
    torch.manual_seed(0)
    hr = F.avg_pool2d(torch.rand(2, 1, 44, 52), 5, 1)
    return degrade(hr, 2, "bicubic"), hr


def context_of(
    frozen: features.Frozen, lr: Tensor, sr: Tensor, hr: Tensor, judge: nn.Module | None = None
) -> losses.Context:
    """What a loss looks at, as the training makes it."""
    codes = features.pair(frozen, EQ9, lr, sr, hr)
    return losses.Context(lr=lr, discriminator=judge, codes=codes)


def test_eq_7_and_8_by_hand() -> None:
    # structure codes of two images, each taken as one vector: cos 0.8 and 0
    output = {
        "structure": torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
        "texture": torch.tensor([[1.0, 1.0], [0.0, 2.0]]),  # cos 1/sqrt(2) and -1
        # one image, two tokens: cos 0.6 and 1
        "vit": [torch.tensor([[[3.0, 4.0], [5.0, 0.0]]])],
    }
    target = {
        "structure": torch.tensor([[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 7.0, 0.0]]),
        "texture": torch.tensor([[1.0, 0.0], [0.0, -1.0]]),
        "vit": [torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])],
    }
    image = torch.zeros(2, 1, 4, 4)

    def value(name: str, reduce: str = "token") -> float:
        context = losses.Context(codes=features.Codes(output, target, reduce))
        return losses.LOSSES[name](image, image, context).item()

    assert value("structure") == pytest.approx((0.2 + 1.0) / 2)
    assert value("texture") == pytest.approx((1 - 1 / math.sqrt(2) + 2.0) / 2)
    assert value("vit") == pytest.approx((0.4 + 0.0) / 2)
    # mean tokens (4, 2) and (1, 0): cos 2/sqrt(5)
    assert value("vit", "pooled") == pytest.approx(1 - 2 / math.sqrt(5))
    target["vit"] = [torch.tensor([[[2.0, 1.0], [0.0, 1.0]]])]
    # less the target's mean token (1, 1): (2, 3), (4, -1) against (1, 0), (-1, 0)
    centred = (1 - 2 / math.sqrt(13) + 1 + 4 / math.sqrt(17)) / 2
    assert value("vit", "centred") == pytest.approx(centred)


def test_eq_9_by_hand() -> None:
    codes = features.Codes(
        output={"structure": torch.tensor([[3.0, 4.0]]), "texture": torch.tensor([[1.0, 0.0]]),
                "vit": [torch.tensor([[[1.0, 1.0]]])]},
        target={"structure": torch.tensor([[0.0, 1.0]]), "texture": torch.tensor([[0.0, 1.0]]),
                "vit": [torch.tensor([[[1.0, 0.0]]])]},
        reduce="token",
    )  # fmt: skip
    judge = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))  # a logit of 0.5 for every image
    nn.init.zeros_(judge[1].weight), nn.init.constant_(judge[1].bias, 0.5)
    context = losses.Context(codes=codes, discriminator=judge)
    image = torch.zeros(1, 1, 4, 4)
    total, terms = losses.weighted(losses.active(EQ9), image, image, context)
    expected = {
        "adversarial": -math.log(1 / (1 + math.exp(-0.5))),
        "vit": 1 - 1 / math.sqrt(2),
        "structure": 0.2,
        "texture": 1.0,
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    assert total.item() == pytest.approx(
        expected["adversarial"] + expected["vit"] + 0.2 + 0.9 * 1.0
    )


@pytest.mark.parametrize("changes", [{}, {"autoencoder_size": 256}, {"vit_reduce": "centred"}])
def test_a_bicubic_output_satisfies_the_printed_terms(
    paths: dict[str, Path], images: tuple[Tensor, Tensor], changes: dict[str, Any]
) -> None:
    """The reason for the pixel term: with the LR image as target nothing is left to gain."""
    lr, hr = images
    output = upsample(lr, 2).requires_grad_(True)
    rounding = {}
    for target, zero in (("lr", True), ("hr", False)):
        frozen = load(paths, target=target, vit_layers=[0, -1], **changes)
        context = context_of(frozen, lr, output, hr)
        for name in COSINES:
            term = losses.LOSSES[name](output, hr, context)
            (gradient,) = torch.autograd.grad(term, output, retain_graph=True)
            if zero:
                rounding[name] = (term.item(), gradient.norm().item())
                assert term.item() == pytest.approx(0.0, abs=1e-10)
                assert gradient.norm().item() < 1e-4
            else:
                assert term.item() > 10 * max(rounding[name][0], 1e-12)
                assert gradient.norm().item() > max(rounding[name][1], 1e-8)
    assert F.l1_loss(output, hr).item() > 0.001


def test_every_loss_reaches_the_generator_and_no_frozen_network(
    paths: dict[str, Path], images: tuple[Tensor, Tensor]
) -> None:
    lr, hr = images
    torch.manual_seed(1)
    generator = models.build("srresnet", 2, {"features": 4, "blocks": 1, "norm": "none"})
    judge = discriminator.build(2, base=2)
    frozen = load(paths)
    watched = [judge, *frozen.networks.values()]
    before = [{key: value.clone() for key, value in n.state_dict().items()} for n in watched]
    for target in ("lr", "hr"):
        frozen = replace(frozen, settings=Features(target=target))
        for name in losses.LOSSES:
            generator.zero_grad()
            sr = generator(lr)
            context = context_of(frozen, lr, sr, hr, judge)
            context.clean, context.guide = lr, hr
            context.side_outputs = {"reconstruction": sr[..., ::2, ::2], "guide": sr}
            losses.LOSSES[name](sr, hr, context).backward()
            norms = [weight.grad.norm().item() for weight in generator.parameters()]
            assert max(norms) > 1e-8, name
            assert all(math.isfinite(norm) for norm in norms), name
            assert all(w.grad is None for network in watched for w in network.parameters()), name
    for network, values in zip(watched[1:], before[1:], strict=True):
        assert not network.training
        assert all(torch.equal(value, values[key]) for key, value in network.state_dict().items())
    assert all(weight.requires_grad for weight in judge.parameters())


def test_gradient_norms_are_those_of_each_term_alone(
    paths: dict[str, Path], images: tuple[Tensor, Tensor]
) -> None:
    lr, hr = images
    torch.manual_seed(1)
    generator = models.build("srresnet", 2, {"features": 4, "blocks": 1, "norm": "none"})
    frozen = load(paths)
    weights = {"structure": 2.0, "l1": 1.0, "vit": 5.0}

    def terms() -> dict[str, Tensor]:
        sr = generator(lr)
        return losses.weighted(weights, sr, hr, context_of(frozen, lr, sr, hr))[1]

    rows = gradients.of_terms(terms(), generator)
    assert all(weight.grad is None for weight in generator.parameters())
    found = gradients.norms(rows, list(weights), MACHINE)
    for name in weights:
        generator.zero_grad()
        terms()[name].backward()
        flat = torch.cat([weight.grad.flatten() for weight in generator.parameters()])
        assert found[f"gradient/{name}"] == pytest.approx(flat.norm().item(), rel=1e-4)
    ratio = found["gradient/vit"] / found["gradient/l1"]
    assert found["gradient_ratio/vit"] == pytest.approx(ratio)
    assert "gradient_ratio/l1" not in found
    assert set(gradients.norms(rows[:1], ["vit"], MACHINE)) == {"gradient/vit"}


def test_the_target_has_no_graph_and_each_network_looks_once_at_each(
    paths: dict[str, Path], images: tuple[Tensor, Tensor]
) -> None:
    lr, hr = images
    frozen = load(paths)
    seen: list[bool] = []
    frozen.networks["vit"].register_forward_pre_hook(
        lambda _, given: seen.append(given[0].requires_grad)
    )
    frozen.networks["autoencoder"].encoder.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].requires_grad)
    )
    sr = upsample(lr, 2).requires_grad_(True)
    context = context_of(frozen, lr, sr, hr)
    losses.weighted({"vit": 1.0, "structure": 1.0, "texture": 1.0}, sr, hr, context)
    assert seen == [False, False, True, True]
    target = context.codes.target
    assert not any(code.requires_grad for code in (target["structure"], *target["vit"]))
    assert target["structure"].shape == (2, 2 * 12 * 12)  # 40x48 padded to 48x48, a quarter
    wide = replace(frozen, settings=Features(autoencoder_size=256))
    assert features.codes(wide, lr, (40, 48), EQ9)["structure"].shape == (2, 2 * 64 * 64)
    assert features.codes(frozen, lr, (40, 48), {"l1": 1.0}) == {}


def test_without_a_canvas_the_structure_term_of_a_patch_pulls_harder() -> None:
    """bench/autoencoder_canvas.py measures it on images."""
    torch.manual_seed(0)
    network = models.build("autoencoder", 2, {}).requires_grad_(False)
    hr = 0.5 + 0.3 * F.avg_pool2d(torch.randn(1, 1, 100, 100), 5, 1)
    lr = degrade(hr, 2, "bicubic")
    pulls = {}
    for size in (Features().autoencoder_size, 256):
        frozen = features.Frozen(Features(autoencoder_size=size), {"autoencoder": network})
        sr = hr.clone().requires_grad_(True)
        codes = features.pair(frozen, {"structure": 1.0}, lr, sr, hr)
        term = losses.structure(sr, hr, losses.Context(codes=codes))
        term.backward()
        pulls[size] = term.item(), sr.grad.norm().item()
    assert all(own > 3 * wide for own, wide in zip(pulls[0], pulls[256], strict=True))


def test_random_controls_have_other_weights_and_touch_no_random_state(
    paths: dict[str, Path],
) -> None:
    trained = load(paths).networks
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (load(paths, seed, random=["vit"]).networks for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)

    def first(networks: dict[str, Any]) -> Tensor:
        return networks["vit"].patch.weight

    assert torch.equal(first(one), first(two))
    assert not torch.equal(first(one), first(trained))
    assert not torch.equal(first(one), first(other))
    same = [networks["autoencoder"].state_dict() for networks in (one, trained)]
    assert all(torch.equal(value, same[1][key]) for key, value in same[0].items())
    control = load(paths, random=["autoencoder"]).networks
    weights = [n["autoencoder"].encoder.structure.weight for n in (control, trained)]
    assert not torch.equal(*weights)
    assert not control["autoencoder"].training
    assert not any(weight.requires_grad for weight in control["autoencoder"].parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "both"},
        {"vit_reduce": "max"},
        {"autoencoder_size": 128},
        {"random": ["generator"]},
        {"validation_patches": 0},
        {"layers": 1},
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"features\.{next(iter(changes))}"):
        build(Features, changes, "features")


def test_a_hidden_state_that_is_not_there_is_refused(
    paths: dict[str, Path], images: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(UserError, match="hidden state 7"):
        features.codes(load(paths, vit_layers=[7]), images[0], (40, 48), EQ9)


def test_the_needed_networks_must_be_given_and_be_what_they_should(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    assert features.digests({"l1": 1.0, "adversarial": 1.0}, {}) == {}
    assert set(features.digests({"texture": 1.0, "structure": 1.0}, paths)) == {"autoencoder"}
    with pytest.raises(UserError, match=r"losses vit: .*--vit"):
        features.digests({"vit": 1.0}, {"vit": None})
    with pytest.raises(UserError, match="no such file"):
        features.digests({"vit": 1.0}, {"vit": tmp_path / "nowhere.pt"})
    swapped = {"vit": paths["autoencoder"], "autoencoder": paths["vit"]}
    for name in ("vit", "texture"):
        with pytest.raises(UserError, match="not a"):
            features.load({name: 1.0}, Features(), swapped, MACHINE, 0)

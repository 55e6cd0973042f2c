"""What is told of wrong options, whatever the network: `pytest tests/models/test_options.py`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from mrsr import models
from mrsr.errors import UserError
from mrsr.params.declared import model_options

# model, wrong options, what the message says
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("autoencoder", {"size": 100}, "size must be a multiple of 16, not 100"),
    ("autoencoder", {"size": -16}, "size must be 0 or more"),
    ("autoencoder", {"pooling": "median"}, "pooling must be one of mean, max, not median"),
    ("autoencoder", {"channels": [1, 2]}, "channels must have 4 values, not 2"),
    ("autoencoder", {"structure_channels": 0}, "structure_channels must be 1 or more"),
    ("autoencoder", {"texture": 0}, "texture must be 1 or more"),
    ("autoencoder", {"start": "x"}, "start must be one of linear, random"),
    ("csn", {"features": 7}, "features must be even, not 7"),
    ("csn", {"features": 0}, "features must be 2 or more"),
    ("csn", {"growth": 0}, "growth must be 1 or more"),
    ("csn", {"layers": 0}, "layers must be 1 or more"),
    ("csn", {"units": 0}, "units must be 1 or more"),
    ("csn", {"blocks": 0}, "blocks must be 1 or more"),
    ("edsr", {"features": 0}, "features must be 1 or more, not 0"),
    ("edsr", {"features": 8.0}, "features must be of type int, not 8.0"),
    ("edsr", {"blocks": True}, "blocks must be of type int, not True"),
    ("edsr", {"residual_scale": 0.0}, "residual_scale must be greater than 0"),
    ("edsr", {"residual_scale": 1.5}, "residual_scale must be at most 1"),
    ("edsr", {"residual_scale": "1"}, "residual_scale must be of type float"),
    ("fb_gacn", {"features": 0}, "features must be 1 or more"),
    ("fb_gacn", {"blocks": 0}, "blocks must be 1 or more"),
    ("fb_gacn", {"iterations": 0}, "iterations must be 1 or more"),
    ("fb_gacn", {"patch": 0}, "patch must be 1 or more"),
    ("fb_gacn", {"neighbours": 1}, "neighbours must be 2 or more"),
    ("fb_gacn", {"heads": 0}, "heads must be 1 or more"),
    ("fb_gacn", {"heads": 3}, "heads must divide features = 64, not 3"),
    ("fused", {"features": 0}, "features must be 1 or more"),
    ("fused", {"blocks": 0}, "blocks must be 1 or more"),
    ("fused", {"width": 0}, "width must be 1 or more"),
    ("fused", {"networks": "none"}, "networks must be one of trained, random, joint, own"),
    ("fused", {"vit": {"hidden": 8}}, "vit.layers is missing"),
    ("fused", {"autoencoder": {"depth": 8}}, "autoencoder.depth unknown key"),
    ("lyu", {"features": 0}, "features must be 1 or more"),
    ("lyu", {"blocks": 0}, "blocks must be 1 or more"),
    ("lyu", {"fusion": "sum"}, "fusion must be one of features, pixels, not sum"),
    ("lyu", {"progressive": 1}, "progressive must be of type bool, not 1"),
    ("minet", {"features": 0}, "features must be 1 or more"),
    ("minet", {"groups": 0}, "groups must be 1 or more"),
    ("minet", {"blocks": 0}, "blocks must be 1 or more"),
    ("minet", {"reduction": 3}, "reduction must divide features = 64, not 3"),
    ("rcan", {"groups": 0}, "groups must be 1 or more"),
    ("rcan", {"blocks": 0}, "blocks must be 1 or more"),
    ("rcan", {"reduction": 0}, "reduction must be 1 or more"),
    ("rcan", {"reduction": 24}, "reduction must divide features = 64, not 24"),
    ("rcan", {"reduction": 128}, "reduction must divide features = 64, not 128"),
    ("rdn", {"features": 0}, "features must be 1 or more"),
    ("rdn", {"blocks": 0}, "blocks must be 1 or more"),
    ("rdn", {"layers": 0}, "layers must be 1 or more"),
    ("rdn", {"growth": 0}, "growth must be 1 or more"),
    ("seran", {"features": 0}, "features must be 1 or more"),
    ("seran", {"blocks": 0}, "blocks must be 1 or more"),
    ("seran", {"width": 0}, "width must be 1 or more"),
    ("seran", {"descriptors": 1}, "descriptors must be 2 or more"),
    ("seran", {"scaling": 0.0}, "scaling must be greater than 0"),
    ("smore", {"features": 0}, "features must be 1 or more"),
    ("smore", {"blocks": 0}, "blocks must be 1 or more"),
    ("smore", {"orientations": 0}, "orientations must be one of 1, 2, 3, 4, not 0"),
    ("smore", {"orientations": 5}, "orientations must be one of"),
    ("smore", {"power": -1}, "power must be 0 or more"),
    ("smore", {"power": float("nan")}, "power must be a finite number"),
    ("srcnn", {"kernels": [9, 1]}, "kernels must have 3 values, not 2"),
    ("srcnn", {"kernels": [8, 1, 5]}, "kernels.0 must be odd, not 8"),
    ("srcnn", {"kernels": 9}, "kernels must be a list"),
    ("srcnn", {"features": [64]}, "features must have 2 values, not 1"),
    ("srcnn", {"init": "zeros"}, "init must be one of identity, gaussian, not zeros"),
    ("srgan", {"norm": "layer"}, "norm must be one of batch, none, not layer"),
    ("srgan", {"features": 0}, "features must be 1 or more"),
    ("srgan", {"blocks": 0}, "blocks must be 1 or more"),
    ("srresnet", {"norm": "layer"}, "norm must be one of batch, none, not layer"),
    ("srresnet", {"blocks": 0}, "blocks must be 1 or more"),
    ("srresnet", {"last_kernel": 4}, "last_kernel must be odd, not 4"),
    ("swinir", {"depths": []}, "depths must be counts such as"),
    ("swinir", {"depths": [2, 0]}, "depths.1 must be 1 or more, not 0"),
    ("swinir", {"embed": 10}, "embed must be a multiple of heads = 6, not 10"),
    ("swinir", {"heads": 0}, "heads must be 1 or more"),
    ("swinir", {"window": 1}, "window must be 2 or more"),
    ("swinir", {"features": 0}, "features must be 1 or more"),
    ("swinir", {"mlp_ratio": 0}, "mlp_ratio must be greater than 0"),
    ("swinir", {"mlp_ratio": 0.001}, "mlp_ratio times embed must be 1 or more"),
    ("swinir", {"upsampler": "nearest"}, "upsampler must be one of"),
    ("t2net", {"transfer": "attention"}, "transfer must be one of transformer, none"),
    ("t2net", {"window": -1}, "window must be 0 or more"),
    ("t2net", {"blocks": 0}, "blocks must be 1 or more"),
    ("t2net", {"residual_scale": 0.0}, "residual_scale must be greater than 0"),
    ("unetr", {"patch": 8}, "patch must be one of 16, not 8"),
    ("unetr", {"size": [16, 20, 16]}, "size.1 must be a multiple of 16, not 20"),
    ("unetr", {"heads": 5}, "hidden must be a multiple of heads = 5, not 768"),
    ("unetr", {"classes": 1}, "classes must be 2 or more"),
    ("unetr", {"dimensions": 4}, "dimensions must be one of 2, 3"),
    ("vdsr", {"features": 0}, "features must be 1 or more"),
    ("vdsr", {"layers": 1}, "layers must be 2 or more, not 1"),
]
SKIPPING = [
    name
    for name in dict.fromkeys(name for name, *_ in WRONG)
    if "skip" in (model_options(name) or [])
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_a_wrong_option_is_told_in_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        models.build(name, 2, options)
    assert str(caught.value).startswith(f"{name}: {message}")


@pytest.mark.parametrize("name", SKIPPING)
def test_a_skip_that_nobody_knows(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: skip must be one of none, bicubic, not nearest"):
        models.build(name, 2, {"skip": "nearest"})


def test_an_unknown_option_comes_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"model 'vdsr' has no option 'skip'; it has: features, l"):
        models.build("vdsr", 2, {"skip": "none"})
    with pytest.raises(UserError, match="it has: none"):
        models.build("bicubic", 2, {"features": 8})


def test_a_network_of_ones_own_is_checked_as_far_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(scale: int, width: int = 3, name="x", sides: tuple[int, ...] = ()) -> nn.Module:
        assert isinstance(sides, tuple)
        return nn.Conv2d(1, width, 3)

    # a plugin may import the type for type checkers alone, so that the name is absent here
    def unknown(scale: int, width: Elsewhere = 3) -> nn.Module:  # noqa: F821
        return nn.Conv2d(1, width, 3)

    own = ModuleType("mrsr.models.own")
    monkeypatch.setattr(models, "module", lambda name: own)
    own.build = build
    assert models.build("own", 2, {"width": 4, "name": 7, "sides": [1]}).out_channels == 4
    with pytest.raises(UserError, match="own: width must be of type int, not '4'"):
        models.build("own", 2, {"width": "4"})
    with pytest.raises(UserError, match=r"cannot be built with options \{'width': -1\}"):
        models.build("own", 2, {"width": -1})
    own.build = unknown
    assert models.build("own", 2, {"width": 5}).out_channels == 5
    assert "mrsr.models.own" not in sys.modules

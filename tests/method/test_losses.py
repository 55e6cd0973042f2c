"""Known values of every loss: `pytest tests/method/test_losses.py`."""

from __future__ import annotations

import pytest
import torch

from mrsr.errors import UserError
from mrsr.method import losses

SR = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2)
HR = torch.tensor([1.0, 0.0, 3.0, 8.0]).reshape(1, 1, 2, 2)


def test_known_values() -> None:
    assert losses.l1(SR, HR).item() == pytest.approx(6 / 4)
    assert losses.l2(SR, HR).item() == pytest.approx(20 / 4)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_zero_for_equal_images_and_a_mean_over_the_batch(name: str) -> None:
    loss = losses.LOSSES[name]
    assert loss(HR, HR, None).item() == 0
    both = loss(torch.cat([SR, HR]), torch.cat([HR, HR]), None)
    assert both.item() == pytest.approx(loss(SR, HR, None).item() / 2)


def test_weighted_is_the_sum_and_terms_stay_unweighted() -> None:
    total, terms = losses.weighted({"l1": 2.0, "l2": 0.5}, SR, HR)
    assert total.item() == pytest.approx(2 * 1.5 + 0.5 * 5)
    assert {key: term.item() for key, term in terms.items()} == {"l1": 1.5, "l2": 5.0}


def test_a_loss_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOSSES, "mine", lambda sr, hr, context: context.lr * sr.mean())
    total, _ = losses.weighted({"mine": 1.0}, SR, HR, losses.Context(lr=torch.tensor(2.0)))
    assert total.item() == pytest.approx(5.0)


def test_zero_weights_are_dropped_and_unknown_names_refused() -> None:
    assert losses.active({"l1": 1, "l2": 0}) == {"l1": 1.0}
    with pytest.raises(UserError, match=r"losses\.l7"):
        losses.active({"l7": 1})
    with pytest.raises(UserError, match="every weight is zero"):
        losses.active({})

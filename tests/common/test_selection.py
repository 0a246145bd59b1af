"""The selection among candidates."""

import torch as th

from sb3_rfm.common.selection import gather_selected, select_by_softmax


def test_selection_has_softmax_probabilities() -> None:
    th.manual_seed(0)
    n_draws, q = 20_000, th.tensor([0.0, 0.1, -0.2, 0.3])
    draws = select_by_softmax(q[:, None].expand(4, n_draws), th.tensor(0.2))
    expected = th.softmax(q / 0.2, 0)
    frequency = th.bincount(draws, minlength=4) / n_draws
    assert expected.max() < 0.7  # a premise: no candidate takes all
    assert ((frequency - expected).abs() < 4 * (expected * (1 - expected) / n_draws).sqrt()).all()


def test_gather_takes_each_states_candidate() -> None:
    candidates = th.arange(12.0).view(3, 2, 2)
    assert gather_selected(candidates, th.tensor([2, 0])).tolist() == [[8.0, 9.0], [2.0, 3.0]]

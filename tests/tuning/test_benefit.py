"""Whether a load helped is measured on equal terms, and said no more surely than the scores allow."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.errors import PlanRefusedError, UsageError
from torchgraft.tuning.benefit import LOADED, SCRATCH, SHUFFLED, Benefit, interval, shuffle_loaded

SEEDS = range(5)


def net(outputs=3):
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))


def taught():
    """Return a network that stands for one that was trained; its values have structure, as trained ones do."""
    torch.manual_seed(99)
    model = net()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1, 1, p.numel()).reshape(p.shape).sin() + 0.1 * torch.randn(p.shape))
    return model


def likeness_to(teacher):
    """Return a way to train for a few steps towards what `teacher` says; the score is minus the error."""

    def train(model, report):
        del report
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        x = torch.randn(32, 6)
        for _ in range(3):
            optimizer.zero_grad()
            loss = (model(x) - teacher(x).detach()).square().mean()
            loss.backward()
            optimizer.step()
        return -loss

    return train


def test_a_load_that_helps_is_said_to_help():
    teacher = taught()
    found = tg.measure_benefit(net, teacher, likeness_to(teacher), seeds=SEEDS)
    assert found.helped is True
    assert found.gain.low > 0
    assert found.over(SHUFFLED).low > 0
    assert str(found).startswith("the load helped: +")
    assert all(score > -1e-6 for score in found.scores[LOADED])


def test_data_that_the_first_run_has_used_up_is_noticed():
    batches = iter([torch.randn(4, 6) for _ in range(6)])

    def train(model, report):
        del report
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x in batches:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return -model(torch.ones(1, 6)).square().mean()

    found = tg.measure_benefit(net, taught(), train, seeds=range(3))
    assert found.untrained == {LOADED: (1, 2), SHUFFLED: (0, 1, 2), SCRATCH: (0, 1, 2)}
    assert "train left scratch as it was in 3 of 3 runs; if its data was used up" in str(found)


def test_what_is_not_trained_at_all_is_no_matter_of_data():
    found = tg.measure_benefit(net, taught(), lambda model, _: model(torch.ones(1, 6)).sum(), seeds=range(3))
    assert "used up" not in str(found)


def test_a_load_that_hurts_is_said_to_hurt():
    teacher, scaled = taught(), taught()
    with torch.no_grad():
        for p in scaled.parameters():
            p.mul_(-3)
    found = tg.measure_benefit(net, scaled, likeness_to(teacher), seeds=SEEDS)
    assert found.helped is False
    assert str(found).startswith("the load hurt: -")


def test_values_like_those_of_a_new_model_make_no_difference():
    torch.manual_seed(5)
    untrained = net()
    found = tg.measure_benefit(net, untrained, likeness_to(taught()), seeds=range(8))
    assert found.helped is None
    assert str(found).startswith("no difference can be told from 8 seeds: ")


def test_what_values_in_random_order_do_as_well_is_put_down_to_scale():
    scores = {SCRATCH: (1.0, 1.1, 0.9), LOADED: (3.0, 3.1, 2.9), SHUFFLED: (3.1, 3.0, 2.9)}
    assert "perhaps by the scale of its values alone" in Benefit(seeds=(0, 1, 2), scores=scores).verdict


def test_starts_of_one_seed_differ_only_in_what_was_loaded():
    seen = []

    def train(model, report):
        draws = (random.random(), np.random.rand(), torch.rand(3).tolist())  # noqa: NPY002, S311
        seen.append((report is None, model[2].weight.detach().clone(), model[0].weight.detach().clone(), draws))
        return 1

    tg.measure_benefit(lambda: net(7), taught(), train, seeds=(3, 4, 5), fresh=["2.*"])
    for turn in range(3):  # another start comes first in each
        runs = seen[3 * turn : 3 * turn + 3]
        loaded, shuffled, scratch = runs[3 - turn :] + runs[: 3 - turn]
        assert (scratch[0], loaded[0], shuffled[0]) == (True, False, False)
        assert torch.equal(scratch[1], loaded[1])
        assert torch.equal(scratch[1], shuffled[1])
        assert scratch[3] == loaded[3] == shuffled[3]
        assert torch.equal(loaded[2], taught()[0].weight)
        assert not torch.equal(shuffled[2], loaded[2])
        assert torch.equal(shuffled[2].flatten().sort().values, loaded[2].flatten().sort().values)
    assert not torch.equal(seen[0][1], seen[3][1])


def test_of_tensors_filled_in_part_only_those_rows_are_put_in_random_order():
    model = nn.Embedding(9, 4)
    before = model.weight.detach().clone()
    report = tg.load(model, {"weight": torch.arange(20.0).reshape(5, 4)}, grow_rows=["weight"])
    shuffle_loaded(model, report, 0)
    assert torch.equal(model.weight[5:], before[5:])
    assert torch.equal(model.weight[:5].flatten().sort().values, torch.arange(20.0))
    assert not torch.equal(model.weight[:5], torch.arange(20.0).reshape(5, 4))


def test_random_states_are_put_back_also_after_an_error():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    teacher = taught()
    before = states()
    with pytest.raises(UsageError, match="for the loaded start with seed 0: return one finite number"):
        tg.measure_benefit(net, teacher, lambda model, report: float("nan"), seeds=SEEDS)
    assert states() == before


@pytest.mark.parametrize("seeds", [(), (1, 2), (1, 1, 2)])
def test_too_few_seeds_are_refused(seeds):
    with pytest.raises(UsageError, match="give 3 or more different ones"):
        tg.measure_benefit(net, taught(), lambda model, report: 1.0, seeds=seeds)


ONE = net()


@pytest.mark.parametrize(
    ("build", "train", "seeds", "said"),
    [
        (net, 3, SEEDS, "train is an int: give a function"),
        (net(), lambda *_: 1.0, SEEDS, "build is a Sequential: give a function"),
        (net, lambda *_: 1.0, 5, r"seeds=5: give a list of numbers, e.g. range\(5\)"),
        (lambda: ONE, lambda *_: 1.0, SEEDS, "build returns the same model again"),
        (dict, lambda *_: 1.0, SEEDS, "build returns a dict: return an nn.Module"),
    ],
)
def test_what_can_tell_nothing_is_refused(build, train, seeds, said):
    with pytest.raises(UsageError, match=said):
        tg.measure_benefit(build, taught(), train, seeds=seeds)


def test_a_part_that_is_trained_on_from_run_to_run_is_found():
    body, teacher = nn.Linear(6, 8), taught()
    with pytest.raises(UsageError, match=r"build gives 0\.\{bias,weight\}|build gives 0.* other initial values"):
        tg.measure_benefit(lambda: nn.Sequential(body, nn.Tanh(), nn.Linear(8, 3)), teacher, likeness_to(teacher))


def test_initial_values_of_a_random_state_of_its_own_are_found():
    own = torch.Generator().manual_seed(0)

    def build():
        model = net()
        nn.init.normal_(model[0].weight, generator=own)
        return model

    with pytest.raises(UsageError, match=r"build gives 0\.weight other initial values .* the same seed, 0"):
        tg.measure_benefit(build, taught(), lambda *_: 1.0)


def test_lazy_models_and_odd_buffers_are_compared_as_far_as_they_can_be():
    def build():
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        model.register_buffer("mask", torch.eye(2).to_sparse(), persistent=False)
        model.register_buffer("none", torch.tensor(float("nan")), persistent=False)
        return model

    assert tg.measure_benefit(build, taught(), lambda *_: 1.0, seeds=SEEDS).helped is None


@pytest.mark.parametrize("score", ["much", None, float("inf"), torch.ones(2)])
def test_a_score_is_one_finite_number(score):
    with pytest.raises(UsageError, match="return one finite number"):
        tg.measure_benefit(net, taught(), lambda model, report: score, seeds=SEEDS)


def test_a_refused_plan_is_refused_here_too():
    trained = []
    with pytest.raises(PlanRefusedError):
        tg.measure_benefit(net, {"other": torch.ones(77)}, lambda model, report: trained.append(1) or 1.0, seeds=SEEDS)
    assert not trained


def test_what_runs_leave_to_those_after_them_favours_no_start():
    """The score counts the runs: where one start always came first, the others were better by just as much each time."""
    runs = []

    def train(model, report):
        del model, report
        runs.append(1)
        return len(runs)

    found = tg.measure_benefit(net, taught(), train, seeds=range(6))
    assert found.helped is None
    assert {sum(scores) for scores in found.scores.values()} == {57}


@pytest.mark.parametrize("seeds", ["abc", [0.5, 1, 2], None, [None] * 3])
def test_seeds_are_whole_numbers(seeds):
    with pytest.raises(UsageError, match=r"give a list of whole numbers, e\.g\. range\(5\)"):
        tg.measure_benefit(net, taught(), lambda model, report: 1.0, seeds=seeds)


@pytest.mark.parametrize("seeds", [(seed for seed in range(3)), np.arange(3)])
def test_any_three_whole_numbers_are_seeds(seeds):
    assert tuple(tg.measure_benefit(net, taught(), lambda model, report: 1.0, seeds=seeds).seeds) == (0, 1, 2)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=20), st.floats(-50, 50))
def test_intervals_move_with_the_values(values, shift):
    base, moved = interval(values), interval([v + shift for v in values])
    assert moved.mean == pytest.approx(base.mean + shift, abs=1e-9)
    assert moved.half_width == pytest.approx(base.half_width, abs=1e-6)
    assert base.low <= base.mean <= base.high


def test_an_interval_known_from_tables():
    """Five values of deviation 1 around 0: t(0.975, 4) = 2.776 (Student's table) over the root of 5."""
    values = [-(2**0.5), 0.0, 0.0, 0.0, 2**0.5]
    assert interval(values).half_width == pytest.approx(2.776 / 5**0.5, rel=1e-3)


def test_complex_values_are_put_in_random_order_too():
    model = nn.Module()
    model.kernel = nn.Parameter(torch.zeros(20, dtype=torch.complex64))
    values = torch.complex(torch.arange(20.0), torch.ones(20))
    shuffle_loaded(model, tg.load(model, {"kernel": values}), 0)
    assert not torch.equal(model.kernel, values)
    assert torch.equal(model.kernel.real.sort().values, values.real)

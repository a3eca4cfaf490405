"""The moving average against its closed form, and what it leaves as it was."""

import pytest
import torch
from torch import nn

from ldm.modules.ema import EMA


@pytest.fixture
def model():
    """Two layers, of which the first is frozen."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def train(model, ema, steps):
    """Give the trained parameters a new value at each step; returns the last layer's weights, by step."""
    history = []
    for _ in range(steps):
        for parameter in model[1].parameters():
            parameter.data.normal_()
        history.append(model[1].weight.detach().clone())
        ema.update(model)
    return history


def test_the_average_begins_as_the_parameters_and_does_not_share_their_memory(model):
    ema, start = EMA(model), model[1].weight.detach().clone()
    model[1].weight.data.zero_()
    assert torch.equal(ema.average("1.weight"), start)


def test_the_warm_up_has_its_closed_form(model):
    """With decays (1 + n) / (10 + n), step k of N keeps the share 9 / (10 + k) of the product of the later decays,
    which telescopes: prod of (1 + n) / (10 + n) over n in k+1 .. N."""
    ema, start, steps = EMA(model, decay=1.0), model[1].weight.detach().clone(), 20
    history = train(model, ema, steps)

    def kept(k):
        share = 1.0
        for n in range(k + 1, steps + 1):
            share *= (1 + n) / (10 + n)
        return share

    expected = kept(0) * start + sum(9 / (10 + k) * kept(k) * value for k, value in enumerate(history, 1))
    torch.testing.assert_close(ema.average("1.weight"), expected)


def test_after_the_warm_up_a_constant_is_approached_geometrically(model):
    ema = EMA(model, decay=0.1)  # below 2 / 11, the first decay of the warm-up
    model[1].weight.data.fill_(5.0)
    gap = ema.average("1.weight") - 5.0
    for _ in range(3):
        ema.update(model)
    torch.testing.assert_close(ema.average("1.weight") - 5.0, 0.1**3 * gap, rtol=0, atol=1e-6)


def test_only_trained_parameters_are_averaged(model):
    ema = EMA(model)
    assert set(ema.state_dict()) == {"updates", "1/weight", "1/bias"}
    assert not list(ema.parameters())


def test_names_that_agree_but_for_their_dots_stay_apart():
    model = nn.ModuleDict({"a": nn.ParameterDict({"bc": torch.zeros(1)}), "ab": nn.ParameterDict({"c": torch.ones(1)})})
    ema = EMA(model)
    assert ema.average("a.bc") == 0 and ema.average("ab.c") == 1


def test_the_averages_stand_in_for_the_parameters_and_give_them_back(model):
    ema = EMA(model)
    train(model, ema, 3)
    before = values(model)
    with ema.applied(model):
        assert torch.equal(model[1].weight, ema.average("1.weight"))
        assert not torch.equal(model[1].weight, before[2])
        assert torch.equal(model[0].weight, before[0])
    assert same(values(model), before)


def test_the_parameters_come_back_after_an_exception(model):
    ema = EMA(model)
    train(model, ema, 3)
    before = values(model)
    with pytest.raises(KeyError), ema.applied(model):
        raise KeyError
    assert same(values(model), before)


def test_the_optimiser_still_holds_the_parameters_afterwards(model):
    ema = EMA(model)
    identities = [id(parameter) for parameter in model.parameters()]
    with ema.applied(model):
        pass
    assert [id(parameter) for parameter in model.parameters()] == identities


def test_training_goes_on_the_same_from_a_state_dict(model):
    ema = EMA(model)
    train(model, ema, 5)
    resumed = EMA(model)
    resumed.load_state_dict(ema.state_dict())
    for _ in range(3):
        model[1].weight.data.normal_()
        ema.update(model)
        resumed.update(model)
    assert same(ema.buffers(), resumed.buffers())
    assert resumed.updates == 8


def test_a_model_in_half_precision_is_averaged_in_full():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    model.weight.data.fill_(1.0)
    ema = EMA(model)
    ema.updates.fill_(10**6)
    model.weight.data.fill_(2.0)
    ema.update(model)
    assert ema.average("weight").item() == pytest.approx(1.0001, abs=1e-6)
    with ema.applied(model):
        assert model.weight.dtype == torch.bfloat16 and model.weight == 1


def test_it_can_live_in_the_model_that_it_follows(model):
    model.ema = EMA(model)
    train(model, model.ema, 1)
    assert set(model.ema.state_dict()) == {"updates", "1/weight", "1/bias"}
    assert "ema.1/weight" in model.state_dict()


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_an_impossible_decay_is_refused(model, decay):
    with pytest.raises(ValueError, match="between 0 and 1"):
        EMA(model, decay)

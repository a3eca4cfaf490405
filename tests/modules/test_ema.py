"""EMA: closed forms of the moving average, and the model's parameters before and after it is applied."""

import pytest
import torch
from torch import nn

from ldm.modules.ema import EMA


@pytest.fixture
def model():
    """Two layers, the first of them frozen."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def values(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def all_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def train(model, ema, steps):
    """Gives the trainable parameters random values at each step; returns the last layer's weight of each step."""
    history = []
    for _ in range(steps):
        for parameter in model[1].parameters():
            parameter.data.normal_()
        history.append(model[1].weight.detach().clone())
        ema.update(model)
    return history


def test_averages_are_initialised_with_a_copy_of_the_parameters(model):
    ema, start = EMA(model), model[1].weight.detach().clone()
    model[1].weight.data.zero_()
    assert torch.equal(ema.average("1.weight"), start)


def test_the_warm_up_follows_its_closed_form(model):
    """With decay (1 + n) / (10 + n) in step n, the value of step k of N has the weight 9 / (10 + k) times the product of the
    decays of steps k + 1 .. N."""
    ema, start, steps = EMA(model, decay=1.0), model[1].weight.detach().clone(), 20
    history = train(model, ema, steps)

    def later_decays(k):
        product = 1.0
        for n in range(k + 1, steps + 1):
            product *= (1 + n) / (10 + n)
        return product

    expected = later_decays(0) * start + sum(
        9 / (10 + k) * later_decays(k) * value for k, value in enumerate(history, 1)
    )
    torch.testing.assert_close(ema.average("1.weight"), expected)


def test_after_the_warm_up_the_average_approaches_a_constant_geometrically(model):
    ema = EMA(model, decay=0.1)  # below 2 / 11, the first decay of the warm-up
    model[1].weight.data.fill_(5.0)
    gap = ema.average("1.weight") - 5.0
    for _ in range(3):
        ema.update(model)
    torch.testing.assert_close(ema.average("1.weight") - 5.0, 0.1**3 * gap, rtol=0, atol=1e-6)


def test_only_trainable_parameters_are_averaged(model):
    ema = EMA(model)
    assert set(ema.state_dict()) == {"updates", "1/weight", "1/bias"}
    assert not list(ema.parameters())


def test_names_that_differ_only_in_their_dots_have_separate_averages():
    model = nn.ModuleDict({"a": nn.ParameterDict({"bc": torch.zeros(1)}), "ab": nn.ParameterDict({"c": torch.ones(1)})})
    ema = EMA(model)
    assert ema.average("a.bc") == 0 and ema.average("ab.c") == 1


def test_applied_replaces_the_parameters_and_restores_them(model):
    ema = EMA(model)
    train(model, ema, 3)
    before = values(model)
    with ema.applied(model):
        assert torch.equal(model[1].weight, ema.average("1.weight"))
        assert not torch.equal(model[1].weight, before[2])
        assert torch.equal(model[0].weight, before[0])
    assert all_equal(values(model), before)


def test_applied_restores_the_parameters_after_an_exception(model):
    ema = EMA(model)
    train(model, ema, 3)
    before = values(model)
    with pytest.raises(KeyError), ema.applied(model):
        raise KeyError
    assert all_equal(values(model), before)


def test_applied_keeps_the_parameter_objects_that_an_optimizer_holds(model):
    ema = EMA(model)
    identities = [id(parameter) for parameter in model.parameters()]
    with ema.applied(model):
        pass
    assert [id(parameter) for parameter in model.parameters()] == identities


def test_averaging_resumes_from_a_state_dict(model):
    ema = EMA(model)
    train(model, ema, 5)
    resumed = EMA(model)
    resumed.load_state_dict(ema.state_dict())
    for _ in range(3):
        model[1].weight.data.normal_()
        ema.update(model)
        resumed.update(model)
    assert all_equal(ema.buffers(), resumed.buffers())
    assert resumed.updates == 8


def test_a_model_in_half_precision_is_averaged_in_float32():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    model.weight.data.fill_(1.0)
    ema = EMA(model)
    ema.updates.fill_(10**6)
    model.weight.data.fill_(2.0)
    ema.update(model)
    assert ema.average("weight").item() == pytest.approx(1.0001, abs=1e-6)
    with ema.applied(model):
        assert model.weight.dtype == torch.bfloat16 and model.weight == 1


def test_an_ema_may_be_a_submodule_of_the_model_that_it_averages(model):
    model.ema = EMA(model)
    train(model, model.ema, 1)
    assert set(model.ema.state_dict()) == {"updates", "1/weight", "1/bias"}
    assert "ema.1/weight" in model.state_dict()


@pytest.mark.parametrize("decay", [-0.1, 1.5])
def test_a_decay_outside_0_to_1_is_refused(model, decay):
    with pytest.raises(ValueError, match="decay"):
        EMA(model, decay)

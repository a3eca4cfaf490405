"""Recorded training passes, rehearsed on a CPU by a recorder that computes anew where a GPU replays (tests/gpu has the GPU's)."""

from types import SimpleNamespace

import pytest
import torch
from small_text import captioned, with_text
from tiny import adapted_model, assert_same_training_step, demo_batch, losses_and_gradients

from ldm.models.runtime import prepare_for_training
from ldm.modules.kernels.cuda_graphs import GraphedTraining
from ldm.training.run import prepare_model
from ldm.util.errors import ConfigError


class Rehearsal:
    """Repeats a function and puts what it returns in the place of its first result, as a replayed graph does."""

    def __init__(self):
        self.repeated = 0

    def __call__(self, run):
        result = run()
        held = [result] if isinstance(result, torch.Tensor) else result

        def repeat():
            self.repeated += 1
            with torch.enable_grad():
                again = run()
            for old, new in zip(held, [again] if isinstance(again, torch.Tensor) else again):
                if old is not None:
                    old.detach().copy_(new.detach())

        return result, repeat


def replaying(**params):
    model, recorder = adapted_model(**params), Rehearsal()
    model.unet.forward = GraphedTraining(model.unet, lambda: recorder)
    return model, recorder


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_replayed_passes_give_the_losses_and_gradients_of_plain_ones(precision):
    """Also for batches of another kind in between, after other steps, and where only adapters have gradients."""
    plain, (model, recorder) = adapted_model(), replaying()
    for size, repeats in [(3, 0), (3, 2), (2, 2), (4, 2), (3, 4), (3, 6)]:
        for each in (plain, model):
            for parameter in each.parameters():
                parameter.data.add_(1e-3 * parameter.requires_grad)
        expected = losses_and_gradients(plain, demo_batch(size), precision)
        assert_same_training_step(losses_and_gradients(model, demo_batch(size), precision), expected, 1e-6)
        assert recorder.repeated == repeats


def test_a_trained_u_net_without_styles_is_replayed_too():
    params = {"freeze_unet": False, "global_stage_config": None}
    plain, (model, recorder) = adapted_model(**params), replaying(**params)
    for _ in range(3):
        expected = losses_and_gradients(plain, demo_batch(2))
        assert_same_training_step(losses_and_gradients(model, demo_batch(2)), expected, 1e-6)
    assert recorder.repeated == 4


def test_a_u_net_that_reads_text_is_replayed_too():
    """Also one without styles, whose text is then not taken for a style."""
    for params in (with_text(), with_text(film_embedding_dim=None)):
        plain, (model, recorder) = adapted_model(**params), replaying(**params)
        for text in ("small red circle", "large blue square", "striped triangle"):
            batch = captioned(demo_batch(2), text)
            expected = losses_and_gradients(plain, batch)
            assert_same_training_step(losses_and_gradients(model, batch), expected, 1e-6)
        assert recorder.repeated == 4


def test_evaluation_is_not_replayed():
    plain, (model, recorder) = adapted_model(), replaying()
    for _ in range(3):
        losses_and_gradients(model, demo_batch(2))
    recorded = recorder.repeated
    with torch.no_grad():
        for each in (plain, model):
            torch.manual_seed(0)
            each.result = each.losses(demo_batch(2))[0]
    assert torch.equal(model.result, plain.result) and recorder.repeated == recorded
    model.eval()
    losses_and_gradients(model, demo_batch(2))
    assert recorder.repeated == recorded


def test_keys_are_the_same():
    assert replaying()[0].state_dict().keys() == adapted_model().state_dict().keys()


def test_what_cannot_be_recorded_is_refused():
    unet = adapted_model().unet
    with pytest.raises(ConfigError, match="cuda_graphs.*GPU"):
        prepare_for_training(unet, "cpu", graphs=True)
    unet.use_checkpoint = True
    with pytest.raises(ConfigError, match="use_checkpoint"):
        prepare_for_training(unet, "cuda", graphs=True)
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    trainer = SimpleNamespace(strategy=strategy, accumulate_grad_batches=2, precision="32", world_size=1)
    config = SimpleNamespace(lightning=SimpleNamespace(compile=False, cuda_graphs=True))
    with pytest.raises(ConfigError, match="accumulate_grad_batches"):
        prepare_model(adapted_model(), trainer, config)

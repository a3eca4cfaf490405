"""What makes training fast: the same numbers as the plain path, within what is stated."""

import copy
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from tiny import MODEL, adapted_model, assert_same_training_step, demo_batch, losses_and_gradients

from ldm.models import runtime
from ldm.modules.ema import EMA
from ldm.util.errors import ConfigError


def small():
    """One level: quick to compile."""
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    unet["params"] |= {"channel_mult": [1], "attention_resolutions": [1], "box_bias": True}
    return adapted_model(unet_config=unet)


def test_on_a_cpu_channels_lie_last_and_losses_and_gradients_are_those_of_the_plain_layout():
    """To 1e-4 of the largest gradient: sums in another order."""
    plain, fast = adapted_model(), adapted_model()
    runtime.prepare_for_training(fast.unet, "cpu")
    weights = [layer.weight for layer in fast.unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert fast.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert_same_training_step(losses_and_gradients(fast, demo_batch(3)), losses_and_gradients(plain, demo_batch(3)), 1e-4)


@pytest.mark.parametrize(
    "precision, dtype", [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32", None)]
)
def test_frozen_weights_are_held_as_the_precision_computes(precision, dtype):
    unet = adapted_model().unet
    runtime.prepare_for_training(unet, "cuda", precision)
    halves = {p.dtype for p in unet.parameters()} - {torch.float32}
    assert halves == ({dtype} if dtype else set())


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same_with_film_lora_masks_boxes_and_a_smaller_last_batch(monkeypatch):
    """Compiled as far as its backward graph, which needs no compiler, to 1e-4 of the largest gradient; and compiled once for
    whole batches and once for any other size."""
    model = small()
    batches = [demo_batch(size) for size in (3, 2)]
    plain = [losses_and_gradients(model, batch) for batch in batches]
    graphs = []
    compiler = torch._dynamo.lookup_backend("aot_eager")

    def counting(graph, inputs):
        graphs.append(graph)
        return compiler(graph, inputs)

    as_it_is = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: as_it_is(self, backend=counting))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    runtime.prepare_for_training(model.unet, "cuda", compiled=True)
    for batch, expected in zip(batches, plain, strict=True):
        assert_same_training_step(losses_and_gradients(model, batch), expected, 1e-4)
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same():
    model = small()
    plain = losses_and_gradients(model, demo_batch(3))
    runtime.prepare_for_training(model.unet, "cpu", compiled=True)
    assert_same_training_step(losses_and_gradients(model, demo_batch(3)), plain, 1e-4)


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler"):
        runtime.prepare_for_training(small().unet, "cpu", compiled=True)


# The optimizer --------------------------------------------------------------------------------------------------------


def test_the_fused_optimizer_steps_as_the_plain_one_does():
    """To 1e-6 after five steps."""
    models = [adapted_model(), adapted_model()]
    for model in models:
        model.learning_rate, model.trainer = 1e-3, SimpleNamespace(estimated_stepping_batches=9)
    fused = models[0].configure_optimizers()["optimizer"]
    assert fused.defaults["fused"]
    parameters = [p for p in models[1].parameters() if p.requires_grad]
    plain = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=models[1].weight_decay, foreach=False, fused=False)
    plain.param_groups[0]["lr"] = fused.param_groups[0]["lr"]
    for number in range(5):
        for model, optimizer in zip(models, (fused, plain)):
            numbers = torch.Generator().manual_seed(number)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.randn(parameter.shape, generator=numbers)
            optimizer.step()
    ours, theirs = ({n: p for n, p in m.named_parameters() if p.requires_grad} for m in models)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_gradients_are_clipped_also_in_mixed_precision(precision, tmp_path):
    model = adapted_model()
    model.learning_rate = 1e-3
    norms = []

    class Norm(pl.Callback):
        def on_before_zero_grad(self, trainer, model, optimizer):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(gradients)) if gradients else None

    loader = torch.utils.data.DataLoader([0, 1, 2], batch_size=3, collate_fn=lambda _: demo_batch(3))
    trainer = pl.Trainer(accelerator="cpu", precision=precision, max_steps=2, gradient_clip_val=1e-3, logger=False,
                         callbacks=[Norm()], default_root_dir=tmp_path, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(model, loader)
    assert norms and all(norm <= 1.001e-3 for norm in norms)


# Several processes ----------------------------------------------------------------------------------------------------


def test_processes_send_round_what_is_trained_and_nothing_else():
    """DistributedDataParallel itself says what it would: everything but what the model tells it to ignore."""
    model = adapted_model()
    ignored = set(model._ddp_params_and_buffers_to_ignore)
    sent = {name for name, _ in (*model.named_parameters(), *model.named_buffers())} - ignored
    assert sent == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_graph_without_triples_attributes_and_boxes_leaves_no_trained_part_without_a_gradient():
    """Or processes would wait for one another for ever."""
    batch, model = demo_batch(3), adapted_model()
    graph = batch.graph
    objects = graph.objs == 0
    bare = graph._replace(
        objs=graph.objs[objects], boxes=torch.full((3, 4), -1.0), obj_to_img=torch.arange(3),
        triples=graph.triples[:0], triple_to_img=graph.triple_to_img[:0], attributes=graph.attributes[:0],
    )  # fmt: skip
    _, gradients = losses_and_gradients(model, type(batch)(batch.image, bare))
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}


# Memory ---------------------------------------------------------------------------------------------------------------

FAULTS = """
import resource, torch
from ldm.models.runtime import keep_freed_memory
print(keep_freed_memory() if {keep} else None)
def step():
    return [torch.ones(1_000_000) for _ in range(8)]
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux's C library can be told")
def test_memory_that_is_kept_is_not_fetched_again_in_every_step():
    def faults(keep, **told):
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, **told}
        ).stdout.split()

    kept, count = faults(True)
    if kept == "False":
        pytest.skip("this C library has no mallopt, or was told by the environment")
    given_back = faults(
        False, MALLOC_MMAP_THRESHOLD_=str(128 << 10)
    )  # glibc's first value, which else adapts by chance
    assert int(count) < int(given_back[1]) / 5


def test_the_average_of_what_is_trained_does_not_see_how_frozen_weights_are_held():
    model = adapted_model()
    before = EMA(model).state_dict()
    runtime.prepare_for_training(model.unet, "cpu", "bf16-mixed")
    after = EMA(model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)

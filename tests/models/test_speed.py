"""Optimisations of training give the same values as plain PyTorch, within stated tolerances."""

import copy
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
    """A model whose U-Net has one level and is compiled quickly."""
    unet = copy.deepcopy(MODEL["params"]["unet_config"])
    unet["params"] |= {"channel_mult": [1], "attention_resolutions": [1], "box_bias": True}
    return adapted_model(unet_config=unet)


def test_channels_last_on_a_cpu_gives_the_same_losses_and_gradients():
    """To 1e-4 of the largest gradient, since sums are computed in another order."""
    plain, fast = adapted_model(), adapted_model()
    runtime.prepare_for_training(fast.unet, "cpu")
    weights = [layer.weight for layer in fast.unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert fast.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert_same_training_step(
        losses_and_gradients(fast, demo_batch(3)), losses_and_gradients(plain, demo_batch(3)), 1e-4
    )


def test_a_prepared_first_stage_has_the_same_latents_and_keys():
    """To 1e-5; it is stored channels-last on a CPU and as it was for a GPU. A model without one stays as it is."""
    model, image = adapted_model(), demo_batch(3).image
    first_stage, expected = model.first_stage_model, model.encode(image)
    keys = list(first_stage.state_dict())
    for device, layout in (("cpu", torch.channels_last), ("cuda", torch.contiguous_format)):
        runtime.prepare_encoders_for_training(model, device)
        assert first_stage.encoder.mid.block_1.conv1.weight.is_contiguous(memory_format=layout)
        torch.testing.assert_close(model.encode(image), expected, rtol=1e-5, atol=1e-5)
    assert list(first_stage.state_dict()) == keys
    runtime.prepare_encoders_for_training(torch.nn.Linear(1, 1), "cpu")


@pytest.mark.parametrize(
    "precision, dtype", [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32", None)]
)
def test_frozen_weights_are_stored_in_the_precision_of_training(precision, dtype):
    unet = adapted_model().unet
    runtime.prepare_for_training(unet, "cuda", precision)
    halves = {p.dtype for p in unet.parameters()} - {torch.float32}
    assert halves == ({dtype} if dtype else set())


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same_values_with_all_conditionings_and_a_smaller_last_batch(monkeypatch):
    """To 1e-4 of the largest gradient. Without a C++ compiler, only the graphs of both passes are traced.

    There are two graphs: one for full batches and one for dynamic sizes.
    """
    model = small()
    batches = [demo_batch(size) for size in (3, 2)]
    plain = [losses_and_gradients(model, batch) for batch in batches]
    graphs = []
    compiler = torch._dynamo.lookup_backend("aot_eager")

    def counting(graph, inputs):
        graphs.append(graph)
        return compiler(graph, inputs)

    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: original(self, backend=counting))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    runtime.prepare_for_training(model.unet, "cuda", compiled=True)
    for batch, expected in zip(batches, plain, strict=True):
        assert_same_training_step(losses_and_gradients(model, batch), expected, 1e-4)
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_values():
    model = small()
    plain = losses_and_gradients(model, demo_batch(3))
    runtime.prepare_for_training(model.unet, "cpu", compiled=True)
    assert_same_training_step(losses_and_gradients(model, demo_batch(3)), plain, 1e-4)


def test_compiling_without_a_compiler_is_an_error(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="compiler"):
        runtime.prepare_for_training(small().unet, "cpu", compiled=True)


# The optimizer --------------------------------------------------------------------------------------------------------


def test_the_fused_optimizer_takes_the_same_steps_as_the_plain_one():
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
def test_gradients_are_clipped_in_full_and_mixed_precision(precision, tmp_path):
    model = adapted_model()
    model.learning_rate = 1e-3
    norms = []

    class Norm(pl.Callback):
        def on_before_zero_grad(self, trainer, model, optimizer):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(gradients)) if gradients else None

    loader = torch.utils.data.DataLoader([0, 1, 2], batch_size=3, collate_fn=lambda _: demo_batch(3))
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=2,
        gradient_clip_val=1e-3,
        logger=False,
        callbacks=[Norm()],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    assert norms and all(norm <= 1.001e-3 for norm in norms)


# Several processes ----------------------------------------------------------------------------------------------------


def test_ddp_synchronises_trainable_parameters_only():
    """DistributedDataParallel synchronises everything that the model does not tell it to ignore."""
    model = adapted_model()
    ignored = set(model._ddp_params_and_buffers_to_ignore)
    synchronised = {name for name, _ in (*model.named_parameters(), *model.named_buffers())} - ignored
    assert synchronised == {name for name, p in model.named_parameters() if p.requires_grad}


def test_all_trainable_parameters_have_gradients_for_graphs_without_triples_attributes_and_boxes():
    """Otherwise DDP would wait for the missing gradients."""
    batch, model = demo_batch(3), adapted_model()
    graph = batch.graph
    objects = graph.objs == 0
    bare = graph._replace(
        objs=graph.objs[objects],
        boxes=torch.full((3, 4), -1.0),
        obj_to_img=torch.arange(3),
        triples=graph.triples[:0],
        triple_to_img=graph.triple_to_img[:0],
        attributes=graph.attributes[:0],
    )
    _, gradients = losses_and_gradients(model, type(batch)(batch.image, bare))
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}


# Memory ---------------------------------------------------------------------------------------------------------------

PAGE_FAULTS = """
import ctypes, resource, torch
from ldm.models.runtime import MMAP_THRESHOLD, keep_freed_memory

def page_faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        [torch.ones(1_000_000) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

try:
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 128 << 10)  # glibc's default, which otherwise adapts
except AttributeError:
    pass
page_faults(3)
default = page_faults(5)
applied = keep_freed_memory()
page_faults(3)
print(applied, default, page_faults(5))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is available on Linux only")
def test_keeping_freed_memory_reduces_page_faults():
    command = [sys.executable, "-c", PAGE_FAULTS]
    applied, default, kept = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if applied == "False":
        pytest.skip("this C library has no mallopt, or the environment configures it")
    assert int(kept) < int(default) / 5


def test_the_ema_does_not_depend_on_the_precision_of_frozen_weights():
    model = adapted_model()
    before = EMA(model).state_dict()
    runtime.prepare_for_training(model.unet, "cpu", "bf16-mixed")
    after = EMA(model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)

"""A tiny but complete diffusion model (random weights, 32 px images) and helpers that train it for one step."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldm.data.demo import DemoTrain
from ldm.graph.batch import Batch, collate
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config

MODEL = {
    "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
    "params": {
        "image_size": 8,
        "init": "random",
        "freeze_unet": True,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {
                "image_size": 8,
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 32,
                "attention_resolutions": [2, 1],
                "num_res_blocks": 1,
                "channel_mult": [1, 1],
                "num_heads": 2,
                "context_dim": 24,
                "context_local_dim": 32,
                "film_embedding_dim": 16,
                "lora_rank": 2,
            },
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.VQModelInterface",
            "params": {
                "init": "random",
                "embed_dim": 4,
                "n_embed": 32,
                "ddconfig": {
                    "double_z": False,
                    "z_channels": 4,
                    "resolution": 32,
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": 32,
                    "ch_mult": [1, 1, 1],
                    "num_res_blocks": 1,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                },
            },
        },
        "cond_stage_config": {
            "target": "ldm.modules.nsg_encoder.NSGEncoder",
            "params": {
                "num_objs": len(VOCAB.objects),
                "num_preds": len(VOCAB.predicates),
                "num_attributes": len(VOCAB.attributes),
                "dim": 32,
                "depth": 1,
                "heads": 2,
                "max_tokens": 24,
            },
        },
        "global_stage_config": {
            "target": "ldm.modules.global_film.CLIPGlobalEncoder",
            "params": {
                "init": "random",
                "model_name": {
                    "embed_dim": 16,
                    "image_size": 32,
                    "layers": 1,
                    "width": 32,
                    "patch_size": 16,
                    "head_width": 16,
                },
            },
        },
    },
}

DATA = {
    "target": "ldm.data.datamodule.DataModuleFromConfig",
    "params": {
        "batch_size": 4,
        "num_workers": 0,
        "train": {"target": "ldm.data.demo.DemoTrain", "params": {"size": 16, "image_size": 32}},
        "validation": {"target": "ldm.data.demo.DemoValidation", "params": {"size": 4, "image_size": 32}},
    },
}


def tiny_model(**params):
    """Returns a LatentDiffusion with the parameters of MODEL, updated by `params`; None removes a parameter."""
    config = copy.deepcopy(MODEL)
    config["params"].update(params)
    config["params"] = {key: value for key, value in config["params"].items() if value is not None}
    model = instantiate_from_config(config)
    model.vocab, model.config = VOCAB, {"model": config, "data": copy.deepcopy(DATA)}
    return model


def randomize_trainable(model: nn.Module, std: float = 0.1, seed: int = 0) -> None:
    """Adds noise to all trainable parameters, so that adapters that begin as the identity have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * std)


def adapted_model(**params):
    """Returns `tiny_model(**params)` in training mode, with adapters that have an effect; the same in every call."""
    torch.manual_seed(0)
    model = tiny_model(**params)
    randomize_trainable(model)
    return model.train()


def demo_batch(size: int) -> Batch:
    """Returns the first `size` (at most 4) images of the demo set, 32 px, with their graphs."""
    return collate([DemoTrain(4, 32)[i] for i in range(size)], VOCAB)


def losses_and_gradients(model, batch: Batch, precision=torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss of each image and the gradient of each trainable parameter, under autocast unless float32."""
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast(model.device.type, precision, enabled=precision != torch.float32):
        losses, _ = model.losses(batch)
    losses.mean().backward()
    return losses.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_training_step(ours: tuple, theirs: tuple, tolerance: float) -> None:
    """Compares results of `losses_and_gradients`: losses to `tolerance`, gradients to that share of their largest value."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=0)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).abs().max() <= tolerance * gradient.abs().max() + 1e-8, name


def saved_for_backward(function: Callable):
    """Returns the bytes of all tensors but parameters that autograd saves during function(), and its result."""
    sizes = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(sizes.values()), result

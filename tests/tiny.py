"""A whole model that is real but tiny: every part, random, 32 px, for tests that need all of them."""

import copy

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
                "model_name": {"embed_dim": 16, "image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
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
    """The model, with `params` of LatentDiffusion changed; None takes one out."""
    config = copy.deepcopy(MODEL)
    config["params"].update(params)
    config["params"] = {key: value for key, value in config["params"].items() if value is not None}
    model = instantiate_from_config(config)
    model.vocab, model.config = VOCAB, {"model": config, "data": copy.deepcopy(DATA)}
    return model

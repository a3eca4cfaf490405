"""Names the published model that a state dict belongs to, to explain why it does not fit or is not supported."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MOTION, SVD = "motion modules of AnimateDiff", "Stable Video Diffusion"
OF_CLIPS = (MOTION, SVD)  # published video models that are supported
# Pattern of a key that only models of one kind have -> what they are.
BY_KEY = {
    r"lora_(up|down|A|B)\.|^lora_(unet|te\d?)_|_lora\.(up|down)\.": "a LoRA, which --lora adds to a model",
    r"controlnet_cond_embedding|^control_model\.|(^|\.)zero_convs\.": "a ControlNet",
    r"motion_modules\.": MOTION,
    r"time_stack|time_mixer|temporal_res_block": SVD,
    r"temporal_transformer|temporal_transformer_blocks": "a video model",
    r"joint_blocks\.|attn\.add_q_proj": "Stable Diffusion 3 or FLUX",
    r"(^|\.)double_blocks\.": "FLUX",
    r"adaln_single|adaLN_modulation": "a diffusion transformer (DiT, PixArt)",
    r"time_embedding\.cond_proj": "a latent consistency model",
}
INPUTS = {
    5: "depth-to-image model (5 input channels)",
    7: "upscaler (7 input channels)",
    8: "InstructPix2Pix model (8 input channels)",
    9: "inpainting model (9 input channels)",
}
CONTEXTS = {
    1024: "Stable Diffusion 2",
    1280: "the refiner of Stable Diffusion XL",
    2048: "Stable Diffusion XL",
}
# Models of these kinds are refused even by a config that they fit: what they need beside the latents is not here.
REFUSED = (
    "the refiner of Stable Diffusion XL",
    "InstructPix2Pix model",
    "depth-to-image model",
    "upscaler",
)


CONFIGS = {"Stable Diffusion 2": "configs/sd2_vg.yaml", "Stable Diffusion XL": "configs/sdxl_vg.yaml"}
SUPPORTED = "use Stable Diffusion 1, 2 or XL, LDM or SGDiff"


def is_refused(kind: str | None) -> bool:
    return kind is not None and any(name in kind for name in REFUSED)


def remedy(kind: str) -> str:
    """What to use for weights of a kind that the config does not fit."""
    if kind == MOTION:
        return "name it as `motion` of a VideoDiffusion whose image model it was made for"
    if kind == SVD:
        return "use VideoUNetModel and AutoencoderKLTemporalDecoder with the sizes of these weights"
    if "inpainting" in kind:
        return "use the config of its model with in_channels: 9"
    return f"use its config, such as {CONFIGS[kind]}" if kind in CONFIGS else SUPPORTED


def describe_kind(state: Mapping[str, Tensor], part: str) -> str | None:
    """What a state dict is, as in "this is an inpainting model"; None if it is none of the known kinds.

    `state` has LDM's or diffusers' keys of the part, without the prefix of a whole model.
    """
    for pattern, kind in BY_KEY.items():
        if any(re.search(pattern, key) for key in state):
            return kind
    return describe_first_stage(state) if part == "first_stage" else describe_unet(state)


def describe_unet(state: Mapping[str, Tensor]) -> str | None:
    first = find_tensor(state, r"^(input_blocks\.0\.0|conv_in)\.weight$", 4)
    context = find_tensor(state, r"attn2\.to_k\.weight$", 2)
    family = CONTEXTS.get(context.shape[1]) if context is not None else None
    inputs = INPUTS.get(first.shape[1]) if first is not None else None
    if inputs:
        article = "an" if inputs[0] in "Ii" else "a"
        return f"{article} {inputs}" + (f" of {family}" if family else "")
    return family


def describe_first_stage(state: Mapping[str, Tensor]) -> str | None:
    if any(re.match(r"(encoder\.|decoder\.)?(layers\.)?\d+\.(conv\.0\.)?weight$", key) for key in state):
        return "a tiny autoencoder (TAESD)"
    first = next((value for key, value in state.items() if key.endswith("decoder.conv_in.weight")), None)
    if first is not None and first.ndim == 5:
        return "an autoencoder of videos"
    if first is not None and first.ndim == 4 and first.shape[1] == 16:
        return "the 16-channel autoencoder of Stable Diffusion 3 or FLUX"
    return None


def find_tensor(state: Mapping[str, Tensor], pattern: str, dimensions: int) -> Tensor | None:
    found = (value for key, value in state.items() if value.ndim == dimensions and re.search(pattern, key))
    return next(found, None)

"""The latent diffusion model: frozen published parts that small trained adapters and encoders steer.

What sampling and editing need is here. `ddpm.LatentDiffusion` is the same with its training by Lightning, whose import takes
seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ldm.checkpoints.trained_with import TrainedWith
from ldm.graph.batch import Batch, GraphBatch, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.text_tokens import Texts
from ldm.graph.vocab import OpenVocab
from ldm.models.diffusion import assembly, text_conditioning
from ldm.models.diffusion.assembly import PUBLISHED_KEYS
from ldm.models.diffusion.ddim import Denoiser
from ldm.models.diffusion.denoising_loss import DenoisingLoss
from ldm.models.diffusion.guidance import guided_denoiser, refuse_untrained_null
from ldm.models.diffusion.inpainting import inpainting_inputs, refuse_other_channels
from ldm.models.diffusion.prediction import predict_noise, with_inputs
from ldm.models.diffusion.published import check_defaults, find_prediction, settle_schedule, with_published_heads
from ldm.models.encoders import checksums, is_text_encoder
from ldm.models.runtime import on_device
from ldm.modules import conditioning
from ldm.modules.conditioning import Conditioning, TextTokens
from ldm.modules.ema import EMA
from ldm.modules.graph_encoder import NoGraphEncoder
from ldm.modules.shallow_copy import with_submodules
from ldm.modules.text_words import HasWordTables, start_from_text
from ldm.modules.word_encoder import ReadsMeanings
from ldm.util.errors import UserError

if TYPE_CHECKING:
    from ldm.models.first_stage import Autoencoder


class LatentDiffusion(DenoisingLoss):
    """Predicts noise in the latent space of a first stage, conditioned on a scene graph and a reference image.

    Args:
        unet_config: `{target, params}` of the U-Net.
        first_stage_config: the same for the autoencoder.
        cond_stage_config: the same for the graph encoder. A model with a text encoder needs none; Stable Diffusion's own
            configs have the text encoder here.
        global_stage_config: the same for the image encoder. Without one, the style is the graph encoder's, if it
            computes one (CGIPModel does).
        ckpt_path: a published checkpoint (LDM, SGDiff or diffusers layout; a file, a folder, or a state dict), or one of
            this project that holds a whole U-Net. The first stage and a frozen graph encoder are loaded from it too, unless their configs name a file.
        init: 'random' permits a frozen U-Net without weights.
        freeze_unet: trains only the U-Net's adapters (LoRA, FiLM, context projections).
        freeze_first_stage: must be true.
        cond_stage_trainable: trains the graph encoder.
        timesteps: T of the noise schedule. This and the next three must agree with the weights in ckpt_path, if these state
            a schedule; by default, they are theirs, otherwise those under `defaults`, otherwise LDM's.
        linear_start: first beta of the noise schedule.
        linear_end: last beta of the noise schedule.
        beta_schedule: name of the noise schedule, 'linear'.
        parameterization: what the U-Net predicts, 'eps' (the noise) or 'v' (v-prediction). By default what the weights in
            ckpt_path or the files beside them state; for SD 2, whose files state nothing, what one evaluation shows; otherwise
            'eps'.
        rescale_betas_zero_snr: whether the noise schedule is rescaled so that its last timestep is pure noise (Lin et al.
            2305.08891). By default as the weights state, otherwise not.
        timestep_spacing: timesteps that samplers visit: 'published' (as in the scheduler_config.json beside the weights),
            'leading', 'linspace' or 'trailing'. By default 'published' for models of v-prediction, otherwise each sampler's own.
        image_size: height and width of the latents.
        channels: channels of the latents.
        scale_factor: factor of the latents. By default the one that the U-Net in ckpt_path was trained with, if the
            file holds it, or the config.json of the first stage states it, otherwise 1.
        defaults: timesteps, linear_start, linear_end, beta_schedule, parameterization, rescale_betas_zero_snr and scale_factor
            to use where neither the arguments above nor the weights state them.
        scale_by_std: sets scale_factor so that the latents of the first batch have a standard deviation of 1, unless it
            was read from ckpt_path.
        graph_drop: share of training rows whose graph is replaced by the learned null tokens, for classifier-free
            guidance (Ho & Salimans 2207.12598). A style that the graph encoder computes is replaced with the graph.
        style_drop: share of training rows whose style is replaced by the learned null style.
        v_loss: whether the loss is that of v (Salimans & Ho 2202.00512, section 4) also for a U-Net that predicts the noise. High noise
            levels, at which layout and style are decided, then count as much as low ones.
        use_ema: keeps an exponential moving average of the trainable parameters.
        ema_decay: its decay per step.
        warmup_steps: steps of linear warm-up of the learning rate.
        cosine: whether the learning rate then decays over the run, as half a cosine.
        weight_decay: of AdamW.
        edit_defaults: options of edits by name where an edit does not give them, such as `reach` or `steps`
            (`ldm.editing.options.EditOptions`).
        monitor: logged value by which the best checkpoint is chosen; by default the validation loss.
        text_stage_config: the same for the text encoder of a U-Net that was trained on text (SD 1, 2, XL). Without a text, it
            reads a caption of the graph.
        text_drop: share of training rows whose text is replaced by the empty one.
        text_stage_trainable: trains the text encoder, with a U-Net that is trained from scratch.
        names_from_text: starts the graph encoder's word tables, in training, from what the text encoder makes of each name.
        preview_config: the same for a TinyAutoencoder that decodes previews of latents.
        published_keys: the keys in assembly.PUBLISHED_KEYS.

    Raises:
        CheckpointError: a frozen part has no weights, or the config states something else than the weights.
        ValueError: a key or value is not supported.
    """

    published_params = PUBLISHED_KEYS
    first_stage_model: Autoencoder
    scale_factor: Tensor
    decided: tuple[str, ...] = ()  # of a model without config: what was decided about it, and by what

    def __init__(
        self,
        unet_config: dict,
        first_stage_config: dict,
        cond_stage_config: dict | None = None,
        global_stage_config: dict | None = None,
        ckpt_path: str | dict | None = None,
        init: str | None = None,
        freeze_unet: bool = False,
        freeze_first_stage: bool = True,
        cond_stage_trainable: bool = True,
        timesteps: int | None = None,
        linear_start: float | None = None,
        linear_end: float | None = None,
        beta_schedule: str | None = None,
        parameterization: str | None = None,
        rescale_betas_zero_snr: bool | None = None,
        timestep_spacing: str | None = None,
        image_size: int = 32,
        channels: int = 4,
        scale_factor: float | None = None,
        scale_by_std: bool = False,
        defaults: dict | None = None,
        graph_drop: float = 0.1,
        style_drop: float = 0.1,
        v_loss: bool = False,
        use_ema: bool = True,
        ema_decay: float = 0.9999,
        warmup_steps: int = 0,
        cosine: bool = True,
        weight_decay: float = 0.01,
        edit_defaults: dict | None = None,
        monitor: str | None = None,
        text_stage_config: dict | None = None,
        text_drop: float = 0.1,
        text_stage_trainable: bool = False,
        names_from_text: bool = False,
        preview_config: dict | None = None,
        **published_keys: Any,
    ):
        super().__init__()
        assembly.refuse_unsupported(init, freeze_first_stage, published_keys)
        defaults = check_defaults(defaults)
        self.unet_waits = False  # on the CPU while the first stage runs: `prepare_for_inference` decides
        self.latent_size, self.channels, self.scale_by_std = image_size, channels, scale_by_std
        self.register_buffer("scale_factor", torch.tensor(1.0))
        self.graph_drop, self.style_drop = graph_drop, style_drop if global_stage_config else graph_drop
        self.text_drop, self.v_loss = text_drop, v_loss
        self.warmup_steps, self.cosine, self.weight_decay = warmup_steps, cosine, weight_decay
        self.edit_defaults = dict(edit_defaults or {})
        self.monitor = monitor or ("val/loss_simple_ema" if use_ema else "val/loss_simple")

        unet = assembly.build_part(with_published_heads(unet_config, ckpt_path), frozen=freeze_unet)
        refuse_other_channels(unet, channels)
        self.inpaints = unet.in_channels != channels  # reads the inpainting mask and the masked latent as well
        unet.weights_from = f"random (init: {init})" if init else None
        self.model = nn.ModuleDict({"diffusion_model": unet})  # published checkpoints say model.diffusion_model
        self.first_stage_model = assembly.build_part(first_stage_config, frozen=True)  # pyright: ignore[reportAttributeAccessIssue]
        self._build_encoders(cond_stage_config, cond_stage_trainable, global_stage_config, text_stage_config)
        self.text_stage_trainable = text_stage_trainable
        if self.text_stage_model is not None:
            self.text_stage_model.requires_grad_(text_stage_trainable)
        self.preview_model = assembly.build_optional(preview_config)
        self.names_from_text = names_from_text
        if names_from_text and (self.text_stage_model is None or not isinstance(self.cond_stage_model, HasWordTables)):
            raise ValueError(
                "model.params.names_from_text needs a text_stage_config, and a graph encoder with word tables"
            )
        self._add_null_conditioning()
        trained = assembly.load_weights(self, ckpt_path, cond_stage_trainable) if ckpt_path else TrainedWith()
        stated = {
            "timesteps": timesteps,
            "linear_start": linear_start,
            "linear_end": linear_end,
            "beta_schedule": beta_schedule,
            "parameterization": parameterization,
            "rescale_betas_zero_snr": rescale_betas_zero_snr,
            "timestep_spacing": timestep_spacing,
        }
        if parameterization is None and "parameterization" not in defaults:
            trained = find_prediction(unet, trained, timesteps or 1000, channels)
        self.schedule = settle_schedule(stated, defaults, trained)
        self.scale_factor, self.scale_by_std = assembly.find_scale_factor(self, scale_factor, defaults, trained)
        if freeze_unet:
            unet.freeze_body()
        assembly.refuse_frozen_without_weights(self)
        self.model_ema = EMA(self, ema_decay) if use_ema else None
        assembly.keep_frozen_out_of_ddp(self)

    # Construction ----------------------------------------------------------------------------------------------------

    def _build_encoders(
        self, graph: dict | None, graph_is_trained: bool, image: dict | None, text: dict | None
    ) -> None:
        """Builds the encoders of graphs, images and texts from their configs."""
        if text is None and is_text_encoder(graph):  # as in Stable Diffusion's own configs
            graph, text = None, graph
        if not (graph or text):
            raise ValueError("model.params has neither a cond_stage_config nor a text_stage_config; name one of them")
        self.cond_stage_model = assembly.build_part(graph, frozen=not graph_is_trained) if graph else NoGraphEncoder()
        self.global_stage_model = assembly.build_optional(image)
        self.text_stage_model = assembly.build_optional(text)
        self._no_text: dict[torch.device, TextTokens] = {}  # encoded, by device

    def _add_null_conditioning(self) -> None:
        """The learned null tokens and, if there are styles, the learned null style."""
        count = 0 if isinstance(self.cond_stage_model, NoGraphEncoder) else 1
        null_tokens = torch.randn(1, count, self.cond_stage_model.dim) * 0.02
        self.null_tokens = nn.Parameter(null_tokens, requires_grad=self.graph_drop > 0 and count > 0)
        self.null_style = None
        if width := (self.global_stage_model or self.cond_stage_model).embedding_dim:
            self.null_style = nn.Parameter(torch.zeros(1, width), requires_grad=self.style_drop > 0)

    def setup(self, stage: str) -> None:
        """Raises UserError if the vocabulary of the data is larger than the graph encoder's."""
        if self.vocab is None:
            return
        assembly.refuse_small_vocabulary(self.cond_stage_model, self.vocab)
        if isinstance(self.cond_stage_model, ReadsMeanings):
            self.cond_stage_model.bind_words(self.vocab)
        if self.names_from_text and stage == "fit":
            start_from_text(self.cond_stage_model, self.vocab, self.text_stage_model)
            if self.model_ema is not None:
                self.model_ema.restart(self)

    def open_vocabulary(self, graphs: Iterable[SceneGraph]) -> None:
        """Adds the names of graphs that the vocabulary lacks, which then have the projection of their meaning alone.

        Raises:
            UserError: the graph encoder has no open words, or the sentence encoder is not installed.
        """
        encoder = self.cond_stage_model
        if not isinstance(encoder, ReadsMeanings) or encoder.open_words is None or self.vocab is None:
            raise UserError(
                "--words embed: this model's graph encoder has no open words (cond_stage_config.params.open_words); use "
                "--words open, which reads each word as a name of the vocabulary"
            )
        vocab = OpenVocab(self.vocab)
        encode(list(graphs), vocab)
        self.vocab = vocab
        encoder.bind_words(vocab)

    # Parts -----------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.scale_factor.device

    @property
    def unet(self) -> nn.Module:
        return self.model["diffusion_model"]

    def with_unet(self, unet: nn.Module) -> LatentDiffusion:
        """Returns a model with another U-Net that shares all other parts with this one, which stays unchanged."""
        return cast(LatentDiffusion, with_submodules(self, {"model.diffusion_model": unet}))

    def parts(self) -> dict[str, nn.Module]:
        """Returns the U-Net, the first stage and the encoders by the names that messages use."""
        parts = {
            "U-Net": self.unet,
            "first stage": self.first_stage_model,
            "graph encoder": self.cond_stage_model,
            "image encoder": self.global_stage_model,
            "text encoder": self.text_stage_model,
            "preview decoder": self.preview_model,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def encoder_checksums(self) -> dict[str, str]:
        """Returns checksums of the frozen encoders, which cached latents, styles and texts depend on, by name."""
        return checksums(self.first_stage_model, self.global_stage_model, self.text_stage_model)

    def saved_state(self) -> dict[str, Tensor]:
        """The trainable parameters, their averages and the scale factor."""
        ema = {} if self.model_ema is None else self.model_ema.state_dict(prefix="model_ema.")
        return {**super().saved_state(), **ema, "scale_factor": self.scale_factor}

    # Latents ---------------------------------------------------------------------------------------------------------

    def _first_stage_on_device(self) -> AbstractContextManager[nn.Module]:
        return on_device(self.first_stage_model, self.device, self.unet if self.unet_waits else None)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:  # (B,3,H,W) in [-1,1] -> (B,4,H/8,W/8)
        with self._first_stage_on_device() as first_stage:
            return self.scale_factor * first_stage.encode(image).float()  # noise is mixed in float32

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:  # (B,4,h,w) -> (B,3,8h,8w) in about [-1,1]
        with self._first_stage_on_device() as first_stage:
            return first_stage.decode(z / self.scale_factor)

    @torch.no_grad()
    def preview(self, z: Tensor) -> Tensor:  # (B,4,h,w) -> (B,3,8h,8w) in about [-1,1]
        """Decodes latents with the tiny autoencoder, if the config names one (`preview_config`)."""
        if self.preview_model is None:
            return self.decode(z)
        with on_device(self.preview_model, self.device) as tiny:
            return tiny.decode(z)  # its latents have the U-Net's scale

    def batch_latents(self, batch: Batch) -> Tensor:  # -> (B,4,h,w)
        """Returns the batch's cached latents, or encodes its images."""
        return self.encode(batch.image) if batch.latents is None else self.scale_factor * batch.latents.z.float()

    @torch.no_grad()
    def inpainting_inputs(self, image: Tensor, mask: Tensor) -> Tensor:  # (B,3,H,W), (B,1,h,w) -> (B,1+4,h,w)
        """Returns what an inpainting U-Net reads beside the latents (see `inpainting.inpainting_inputs`)."""
        return inpainting_inputs(self.encode, image, mask)

    def all_painted(self) -> Tensor:  # -> (1,1+4,h,w)
        """Returns `inpainting_inputs` where the whole image is to be painted."""
        size = self.latent_size * self.first_stage_model.downsampling
        image = torch.zeros(1, 3, size, size, device=self.device)
        return self.inpainting_inputs(image, image.new_ones(1, 1, self.latent_size, self.latent_size))

    # Conditioning ----------------------------------------------------------------------------------------------------

    def condition(
        self,
        graph: GraphBatch,
        reference: Tensor | None = None,
        style: Tensor | None = None,
        texts: Texts | TextTokens | None = None,
    ) -> Conditioning:
        """Encodes graphs, styles and texts.

        Args:
            graph: the scene graphs of B images.
            reference: images (B,3,H,W) whose style is used. A model without image encoder ignores it and `style`.
            style: embeddings (B,E) to use instead; without either, the learned null style is used.
            texts: B texts, their tokens (B,77), or both encoded; by default captions of the graphs. A model without text
                encoder ignores them.

        Raises:
            UserError: the null style is needed, but was not trained.
        """
        cond = self.cond_stage_model(graph)
        if self.text_stage_model is not None:
            texts = self.captions(graph) if texts is None else texts
            cond = cond._replace(text=texts if isinstance(texts, TextTokens) else self.encode_texts(texts))
        if self.global_stage_model is None:
            return cond
        if style is not None:
            return cond._replace(style=style.float())
        if reference is None:
            refuse_untrained_null("style", self.style_drop)
            return cond._replace(style=self.null_style.expand(len(cond.tokens), -1))
        with on_device(self.global_stage_model, self.device) as image_encoder:
            return cond._replace(style=image_encoder(reference))

    def batch_conditioning(self, batch: Batch) -> Conditioning:
        """Encodes the batch's graphs, and its references and captions unless it holds what the encoders made of them."""
        style = batch.latents and batch.latents.style
        return self.condition(batch.graph, batch.reference, style, text_conditioning.batch_texts(batch))

    def captions(self, graph: GraphBatch) -> list[str]:
        """Returns a caption of each graph that fits into the text encoder."""
        return text_conditioning.captions(graph, self.vocab)

    def encode_texts(
        self,
        texts: Texts,
        negative: bool = False,
        size: tuple[int, int] | None = None,
        chunked: bool = False,
    ) -> TextTokens:
        """Encodes B texts (see `text_conditioning.encode_texts`); `size` is by default that of the model's training."""
        side = self.latent_size * self.first_stage_model.downsampling
        with on_device(self.text_stage_model, self.device) as text_encoder:
            return text_conditioning.encode_texts(text_encoder, texts, size or (side, side), chunked, negative)

    def null(self, negative: str = "") -> Conditioning:
        """Returns the learned null tokens and null style, and the encoded negative prompt, one row."""
        text = None if self.text_stage_model is None else self.encode_texts([negative], negative=True)
        return Conditioning.from_tokens(self.null_tokens, self.null_style, text)

    def unconditional(self, batch_size: int) -> Conditioning:
        """Returns the null conditioning for a batch. Raises UserError if it was not trained."""
        refuse_untrained_null("graph", self.graph_drop)
        refuse_untrained_null("style", self.style_drop)
        return conditioning.cat(*[self.null()] * batch_size)

    def denoiser(
        self,
        cond: Conditioning,
        graph_scale: float = 1.0,
        style_scale: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        inputs: Tensor | None = None,
        negative: str = "",
        null: Conditioning | None = None,
        text_scale: float | None = None,
    ) -> Denoiser:
        """Returns eps(x, t) under `cond` with classifier-free guidance (arguments as for `guidance.guided_denoiser`).

        It is the noise whatever the U-Net predicts. A style that the graph encoder computes is guided by `graph_scale`. A U-Net
        of inpainting reads `inputs` (`inpainting_inputs`); by default all of the image is painted. Text is guided with the graph,
        or by `text_scale` where there are both, away from the text `negative`, or from `null`, a conditioning of one row or B.

        Raises:
            UserError: guidance needs a null conditioning that was not trained, or a value is out of range.
        """
        if self.global_stage_model is None:
            style_scale = graph_scale
        if graph_scale != 1:
            refuse_untrained_null("graph", self.graph_drop)
        if (graph_scale, style_scale) != (1, 1):
            refuse_untrained_null("style", self.style_drop)
        timesteps = len(self.schedule)
        null = null or self.null(negative)
        scales = graph_scale, style_scale, interval, rescale
        predict = guided_denoiser(self.unet, timesteps, cond, null, *scales, text_scale)
        if self.inpaints:
            predict = with_inputs(predict, self.all_painted() if inputs is None else inputs)
        return predict_noise(predict, self.schedule)

    # Loss ------------------------------------------------------------------------------------------------------------

    def training_conditioning(self, batch: Batch, rows: int, random: dict[str, Any]) -> Conditioning:
        """Encodes a batch; in some rows graph, style or text, each by itself, are replaced by the null conditioning."""
        has_text = self.text_stage_model is not None
        uniform = torch.rand(3 if has_text else 2, rows, **random)
        cond = self.batch_conditioning(batch)
        drop_graph = uniform[0] < self.graph_drop
        drop_style = drop_graph if self.global_stage_model is None else uniform[1] < self.style_drop
        drop_text = uniform[2] < self.text_drop if has_text else None
        return cond.drop(drop_graph, drop_style, self._training_null(), drop_text)

    def _training_null(self) -> Conditioning:
        """`null`, which encodes its text only once if that does not change, and makes no GPU wait for its tokens."""
        if self.text_stage_model is None:
            return self.null()
        if self.text_stage_trainable and not self.text_stage_model.zero_if_empty:
            text = self.encode_texts(text_conditioning.empty_text(self.device))
        else:
            if self.device not in self._no_text:
                self._no_text[self.device] = self.encode_texts([""], negative=True)
            text = self._no_text[self.device]
        return Conditioning.from_tokens(self.null_tokens, self.null_style, text)

    def prediction(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        if self.inpaints:
            x = torch.cat([x, self.all_painted().to(x).expand(len(x), -1, -1, -1)], dim=1)
        return self.unet(x, t, cond)

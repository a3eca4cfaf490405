"""FiLM, and the CLIP image encoder compared with open_clip's own pipeline."""

import zipfile

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ldm.checkpoints.loading import CheckpointError
from ldm.modules.global_film import CLIPGlobalEncoder, FiLMGenerator, modulate
from ldm.modules.image_encoder import OPENAI, image_tower, weights_file

TINY = {
    "embed_dim": 16,
    "image_size": 32,
    "layers": 2,
    "width": 32,
    "patch_size": 8,
    "head_width": 16,
    "quick_gelu": True,
}


def test_new_film_leaves_the_feature_map_bit_equal():
    film, h = FiLMGenerator(6, [3, 5]), torch.randn(2, 3, 4, 4)
    assert torch.equal(modulate(h, *film(torch.randn(2, 6))[0]), h)


def test_film_multiplies_each_channel_by_one_plus_gamma_and_adds_beta():
    h = torch.ones(1, 2, 1, 1) * 3
    assert modulate(h, torch.tensor([[1.0, -1]]), torch.tensor([[0.5, 4]])).flatten().tolist() == [6.5, 4]


def test_every_feature_map_has_separate_gamma_and_beta():
    film = FiLMGenerator(6, [3, 5, 3])
    nn.init.normal_(film.net[-1].weight)
    parts = [part for pair in film(torch.randn(2, 6)) for part in pair]
    assert [part.shape[1] for part in parts] == [3, 3, 5, 5, 3, 3]
    weights = [torch.autograd.grad(part.sum(), film.net[-1].weight, retain_graph=True)[0].any(dim=1) for part in parts]
    assert torch.equal(
        torch.stack(weights).sum(dim=0), torch.ones(22)
    )  # each row of the weight serves exactly one of them


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CLIPGlobalEncoder(TINY, init="random")


def photograph(height, width, seed=0):
    """An 8-bit image with edges and noise, without values near black and white, where overshoot is clipped."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 196, (height // 10 + 1, width // 10 + 1, 3)).repeat(10, axis=0).repeat(10, axis=1)
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray((blocks[:height, :width] + noise).astype(np.uint8))


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("size", [(32, 32), (32, 57), (101, 64), (64, 101), (20, 31), (256, 256)])
def test_preprocessing_matches_open_clips_for_any_image_size(encoder, size):
    image = photograph(*size)
    theirs = image_transform(32, is_train=False)(image)
    ours = encoder.preprocess(to_tensor(image))[0]
    # open_clip rounds to 8 bits after each of two passes; one level is 0.015 after standardisation.
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 0.03


def test_the_embedding_equals_open_clips(encoder):
    image = photograph(100, 70)
    model = open_clip.CLIP(
        16,
        {k: TINY[k] for k in ("image_size", "layers", "width", "patch_size", "head_width")},
        {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 2, "layers": 1},
        quick_gelu=True,
    )
    model.visual.load_state_dict(encoder.visual.state_dict())
    with torch.no_grad():
        theirs = model.eval().encode_image(image_transform(32, is_train=False)(image)[None], normalize=True)
    torch.testing.assert_close(encoder(to_tensor(image)), theirs, rtol=0, atol=0.01)


def test_embeddings_have_unit_length_only_if_normalised():
    torch.manual_seed(0)
    image = torch.rand(3, 3, 40, 50) * 2 - 1
    unit, free = CLIPGlobalEncoder(TINY, init="random"), CLIPGlobalEncoder(TINY, normalize=False, init="random")
    free.load_state_dict(unit.state_dict())
    assert free.embedding_dim == 16 and free(image).shape == (3, 16)
    torch.testing.assert_close(unit(image), free(image) / free(image).norm(dim=1, keepdim=True))
    assert not torch.allclose(free(image).norm(dim=1), torch.ones(3), atol=0.1)


def test_the_encoder_is_frozen_and_stays_in_evaluation_mode(encoder):
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    wrapper = nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in wrapper.parameters())
    assert not wrapper(image).requires_grad


def test_the_encoder_computes_in_the_precision_of_its_weights(encoder):
    image = torch.rand(2, 3, 40, 50) * 2 - 1
    expected = encoder(image)
    half = encoder.bfloat16()(image)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.05)


class OpenAI(nn.Module):
    """CLIP as in OpenAI's archives: `visual` beside the text tower."""

    def __init__(self, visual):
        super().__init__()
        self.visual, self.token_embedding = visual, nn.Embedding(3, 4)
        self.register_buffer("input_resolution", torch.tensor(32))

    def forward(self, image):
        return self.visual(image)


def write_torchscript(path, state, visual):
    model = OpenAI(visual).eval()
    torch.jit.trace(model, torch.zeros(1, 3, 32, 32)).save(path)


WRITERS = {
    "openai.pt": write_torchscript,
    "openai_state.pt": lambda path, state, _: torch.save({**state, "logit_scale": torch.ones(())}, path),
    "open_clip.pt": lambda path, state, _: torch.save(
        {"epoch": 3, "name": "run", "state_dict": {f"module.{key}": value for key, value in state.items()}}, path
    ),
    "open_clip.safetensors": lambda path, state, _: save_file({k: v.contiguous() for k, v in state.items()}, path),
    "half.bin": lambda path, state, _: torch.save({key: value.half() for key, value in state.items()}, path),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_weights_load_from_every_published_file_format(encoder, tmp_path, name):
    state = {f"visual.{key}": value for key, value in encoder.visual.state_dict().items()}
    WRITERS[name](tmp_path / name, state, encoder.visual)
    loaded = CLIPGlobalEncoder(TINY, pretrained=str(tmp_path / name))
    assert loaded.weights_from == str(tmp_path / name)
    tolerance = 1e-3 if name == "half.bin" else 0
    for key, value in encoder.visual.state_dict().items():
        assert loaded.visual.state_dict()[key].dtype == torch.float32
        torch.testing.assert_close(loaded.visual.state_dict()[key], value, rtol=tolerance, atol=tolerance)


def test_a_missing_file_of_weights_names_its_path_and_download_address(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"\.cache/clip/ViT-B-32\.pt: .*download https://.*/ViT-B-32\.pt"):
        CLIPGlobalEncoder("ViT-B/32", device="cuda")
    with pytest.raises(CheckpointError, match="pretrained"):
        CLIPGlobalEncoder(TINY)
    with pytest.raises(CheckpointError, match=r"elsewhere\.pt"):
        CLIPGlobalEncoder(TINY, pretrained="elsewhere.pt")


def test_openais_weights_are_found_in_their_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".cache" / "clip" / "ViT-B-32.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert weights_file("ViT-B/32", None) == path


@pytest.mark.parametrize(
    "content, message",
    [
        ({"visual.conv1.weight": torch.zeros(1)}, "not the weights of CLIP"),
        ({"text.weight": torch.zeros(1)}, "no visual"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        CLIPGlobalEncoder(TINY, pretrained=str(tmp_path / "other.pt"))


def test_a_damaged_archive_raises_a_checkpoint_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "damaged.pt", "w") as archive:
        archive.writestr("damaged/data.pkl", b"\x80\x02}q\x00")
        archive.writestr("damaged/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="damaged"):
        CLIPGlobalEncoder(TINY, pretrained=str(tmp_path / "damaged.pt"))


@pytest.mark.parametrize("name", OPENAI)
def test_openais_models_use_quick_gelu(name):
    with torch.device("meta"):
        kinds = {type(module) for module in image_tower(name).modules()}
    assert open_clip.transformer.QuickGELU in kinds and nn.GELU not in kinds


def test_an_unknown_model_or_init_is_refused():
    with pytest.raises(ValueError, match="ViT-B/32"):
        CLIPGlobalEncoder("ViT-Z/99", init="random")
    with pytest.raises(ValueError, match="random"):
        CLIPGlobalEncoder(TINY, init="zero")

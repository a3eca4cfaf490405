"""Scores of pictures, against torchmetrics and the definitions."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ldm.evaluation.metric_networks import LPIPS
from ldm.evaluation.validation import pie_scores
from ldm.evaluation.validation.clip import OpenClip
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.score_options import ScoreOptions, default_names, expand_names, make_scores
from ldm.evaluation.validation.scores import CheckerScore, ClipScore, PixelScore
from ldm.graph.scene_graph import SceneGraph
from ldm.synthetic.shapes import render
from ldm.util.errors import UserError

WB = ("weight", "bias")


def noise(seed, size=(40, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture
def line(tmp_path):
    """An edit of a picture of noise, 40 x 32, whose left half may change."""
    noise(0).save(tmp_path / "photo.png")
    region = np.zeros((32, 40), bool)
    region[:, :20] = True
    return ValidationLine(
        "a", "line 1", photograph=tmp_path / "photo.png", region=region, prompt="red", source_prompt="blue"
    )


class ColourClip:
    """Embeds a picture as its mean colour, and the name of a colour as that colour."""

    protocol = {"clip": "colours"}

    def image(self, picture):
        return torch.tensor(np.asarray(picture, float).mean((0, 1)))

    def text(self, words):
        return torch.tensor(np.asarray(Image.new("RGB", (1, 1), words), float)[0, 0])


def masked(picture, region):
    values = np.asarray(picture, np.float32) / 255 * ~region[..., None]
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def test_the_background_metrics_of_pie_bench_are_those_of_torchmetrics_on_blackened_pictures(line):
    picture = noise(1)
    numbers = pie_scores.PiePixels().measure(picture, line)
    first, second = masked(picture, line.region), masked(noise(0), line.region)
    assert numbers["psnr_unedit_part"] == pytest.approx(
        float(peak_signal_noise_ratio(first, second, data_range=1.0)), abs=1e-3
    )
    ssim = structural_similarity_index_measure(first, second, data_range=1.0)
    assert numbers["ssim_unedit_part"] == pytest.approx(float(ssim), abs=1e-4)
    assert numbers["mse_unedit_part"] == pytest.approx(float((first - second).square().mean()), rel=1e-5)


def test_an_edit_of_everything_has_no_background(line):
    everything = ValidationLine("b", photograph=line.photograph, region=np.ones((32, 40), bool))
    assert pie_scores.PiePixels().measure(noise(1), everything) == {}


def test_the_lpips_of_pie_bench_is_that_of_squeezenet(line, tmp_path):
    weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(weights, tmp_path / LPIPS["squeeze"].file)
    score = make_scores(["pie-lpips"], ScoreOptions(weights=str(tmp_path)))["pie-lpips"]
    assert score.measure(noise(0), line)["lpips_unedit_part"] == 0
    assert score.measure(noise(1), line)["lpips_unedit_part"] > 0
    assert score.protocol["lpips"]["net"] == "squeeze"


def test_the_structure_distance_is_that_of_the_keys_of_the_last_layer(line):
    torch.manual_seed(0)
    network = timm.models.VisionTransformer(224, 56, num_classes=0, embed_dim=24, depth=2, num_heads=3).eval()
    first, second = noise(1), noise(0)
    square = ValidationLine("a", photograph=line.photograph.parent / "square.png")
    second.crop((0, 0, 32, 32)).resize((224, 224)).save(square.photograph)
    picture = first.crop((0, 0, 32, 32)).resize((224, 224))

    def similarities(picture):
        """The definition, with all heads' keys side by side."""
        image = torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1)[None]
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in pie_scores.IMAGENET)
        with torch.no_grad():
            x = network.blocks[0](network.norm_pre(network._pos_embed(network.patch_embed((image - mean) / std))))
            keys = network.blocks[1].attn.qkv(network.blocks[1].norm1(x)).reshape(17, 3, 3, 8)[:, 1].reshape(17, 24)
        return torch.nn.functional.cosine_similarity(keys[:, None], keys[None], dim=-1)

    expected = (similarities(picture) - similarities(Image.open(square.photograph))).square().mean()
    numbers = pie_scores.PieStructure(network).measure(picture, square)
    assert numbers["structure_distance"] == pytest.approx(float(expected), rel=1e-4) and expected > 0


def test_the_network_of_dino_has_the_keys_of_the_published_file():
    with torch.device("meta"):
        network = timm.create_model("vit_base_patch8_224", pretrained=False, num_classes=0)
    block = [
        f"{layer}.{kind}" for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2") for kind in WB
    ]
    published = {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "norm.weight",
        "norm.bias",
    }
    published |= {f"blocks.{index}.{key}" for index in range(12) for key in block}
    assert set(network.state_dict()) == published
    assert network.pos_embed.shape == (1, 785, 768)


def test_the_clip_similarities_of_pie_bench_are_of_photograph_picture_and_edited_region(line):
    picture = Image.new("RGB", (40, 32), (255, 255, 0))
    Image.new("RGB", (40, 32), "blue").save(line.photograph)
    picture.paste((255, 0, 0), (0, 0, 20, 32))
    numbers = pie_scores.PieClip(ColourClip()).measure(picture, line)
    assert numbers["clip_similarity_source_image"] == pytest.approx(100)
    assert numbers["clip_similarity_target_image_edit_part"] == pytest.approx(100)
    assert numbers["clip_similarity_target_image"] == pytest.approx(100 * 2 / 5**0.5)  # (2, 1, 0) to (1, 0, 0)


def test_the_published_row_is_in_the_units_of_the_table():
    averages = {"structure_distance": 0.01165, "psnr_unedit_part": 27.22, "lpips_unedit_part": 0.05455}
    averages |= {"mse_unedit_part": 0.003286, "ssim_unedit_part": 0.8476}
    averages |= {"clip_similarity_target_image": 25.02, "clip_similarity_target_image_edit_part": 22.10}
    assert pie_scores.row(averages) == ["11.65", "27.22", "54.55", "32.86", "84.76", "25.02", "22.10"]


# Other scores --------------------------------------------------------------------------------------------------------


def test_pixels_outside_of_the_region_are_compared_with_the_photograph(line):
    picture = np.asarray(noise(0)).copy()
    picture[:, :20] = 0
    score = PixelScore({})
    numbers = score.measure(Image.fromarray(picture), line)
    assert numbers["psnr_outside"] == 99 and numbers["ssim_outside"] == pytest.approx(1)
    assert numbers["changed_inside"] == pytest.approx(np.asarray(noise(0), float)[:, :20].mean())
    picture[:, 20:] = np.clip(picture[:, 20:].astype(int) + 10, 0, 255)
    assert score.measure(Image.fromarray(picture), line)["psnr_outside"] < 30


def test_the_true_result_is_nearest_to_itself(line, tmp_path):
    truth = np.asarray(noise(0)).copy()
    truth[8:16, 8:16] = 255
    Image.fromarray(truth).save(tmp_path / "truth.png")
    with_truth = ValidationLine("a", photograph=line.photograph, truth=tmp_path / "truth.png")
    best = PixelScore({}).measure(Image.fromarray(truth), with_truth)
    unedited = PixelScore({}).measure(noise(0), with_truth)
    assert best["truth_psnr"] == 99 > unedited["truth_psnr"] and best["psnr_outside"] == unedited["psnr_outside"] == 99


def test_without_mask_and_truth_the_changed_boxes_may_change(line):
    before = SceneGraph(("circle", "square"), ((0, 0, 0.5, 1), (0.5, 0, 1, 1)), ids=("a", "b"))
    after = SceneGraph(("circle", "triangle"), before.boxes, ids=("a", "b"))
    edit = ValidationLine("a", photograph=line.photograph, source_graph=before, graph=after)
    picture = np.asarray(noise(0)).copy()
    picture[:, 20:] = 0
    assert PixelScore({}).measure(Image.fromarray(picture), edit)["psnr_outside"] == 99
    picture[:, :20] = 0
    assert PixelScore({}).measure(Image.fromarray(picture), edit)["psnr_outside"] < 20


def test_a_picture_of_another_size_is_an_error_that_names_the_line(line):
    with pytest.raises(UserError, match="line 1: its picture is 30x32, its photograph 40x32"):
        PixelScore({}).measure(noise(1, (30, 32)), line)


def test_the_checker_passes_a_picture_of_its_graph(scene):
    from ldm.data.demo import DemoValidation

    graph, background = DemoValidation(8).scene(3)
    picture = render(graph, background, 64)
    numbers = CheckerScore("shapes").measure(picture, ValidationLine("a", graph=graph))
    assert numbers == {"passed": 1, "objects": 1, "triples": 1}
    other = ValidationLine("a", graph=scene[2])
    assert CheckerScore("shapes").measure(picture, other)["passed"] == 0


def test_clip_compares_with_prompt_photograph_and_truth(line):
    numbers = ClipScore(ColourClip()).measure(Image.new("RGB", (4, 4), "red"), line)
    assert numbers["clip_text"] == pytest.approx(100) and 50 < numbers["clip_source"] < 65  # grey noise: 1 / sqrt(3)
    assert set(numbers) == {"clip_text", "clip_source"}


def test_clip_is_loaded_from_a_file_and_never_downloaded(tmp_path):
    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}}
    config["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    clip = OpenClip(f"tiny-clip:{tmp_path}/clip.pt")
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.tokenize(["a cat"]))[0]
    torch.testing.assert_close(clip.text("a cat"), expected)
    assert clip.image(noise(0)).shape == (8,) and len(clip.protocol["sha256"]) == 64
    for name, message in (("tiny-clip:none.pt", "there is no file"), ("tiny-clop:none.pt", "did you mean 'tiny-clip'")):
        with pytest.raises(UserError, match=message):
            OpenClip(name)


def test_missing_weights_are_named_with_their_place(tmp_path):
    options = ScoreOptions(weights=str(tmp_path))
    for name, message in (
        ("pie-structure", "dino_vitbase8_pretrain.pth from https"),
        ("pie-lpips", "squeezenet1_1-b8a52dc0.pth from https"),
        ("pie-clip", "--clip"),
        ("checker", "--world"),
    ):
        with pytest.raises(UserError, match=message):
            make_scores([name], options)


def test_the_default_scores_need_no_weights_and_suit_the_lines(line):
    assert default_names([line], ScoreOptions()) == ["pie-pixels"]
    assert default_names([ValidationLine("a")], ScoreOptions(world="shapes")) == ["checker"]
    assert expand_names(["pie"]) == ["pie-pixels", "pie-lpips", "pie-structure", "pie-clip"]
    with pytest.raises(UserError, match="did you mean 'pixels'"):
        expand_names(["pixel"])

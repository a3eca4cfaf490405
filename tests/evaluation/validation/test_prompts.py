"""Lines with a prompt and no graph: models that read text sample them, others say that they do not."""

import json

import numpy as np
import pytest
import torch
from tiny import MODEL, tiny_model

from ldm.evaluation.validation import diffusion_maker
from ldm.evaluation.validation.diffusion_maker import DiffusionMaker
from ldm.evaluation.validation.models import parse_models
from ldm.evaluation.validation.reading import read_lines
from ldm.sampling.text_options import Prompt, TextOptions
from ldm.sampling.text_to_image import sample_texts
from ldm.util.errors import UserError

TEXT = {
    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"init": "random", "version": {"width": 24, "layers": 2, "heads": 2, "embed_dim": 16}},
}
LINES = (
    {"id": "cat", "prompt": "a cat", "seed": 3},
    {"id": "dog", "prompt": "a dog", "seed": 4, "negative": "blurry", "scale": 3.0},
    {"id": "fox", "prompt": "a fox", "seed": 5},
)


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return read_lines(tmp_path / "validation.jsonl")


def maker(monkeypatch, model, **options):
    monkeypatch.setattr(diffusion_maker, "load_model", lambda *_: model)
    (spec,) = parse_models("some.ckpt@steps=2", [])
    return DiffusionMaker(spec, None, "cpu", {**options, **spec.options})


@pytest.fixture(scope="module")
def reader():
    """A small model that reads text and no graphs."""
    torch.manual_seed(0)
    params = MODEL["params"]["unet_config"]["params"]
    names = ("context_local_dim", "film_embedding_dim", "lora_rank")
    unet = {**MODEL["params"]["unet_config"], "params": {key: params[key] for key in params if key not in names}}
    model = tiny_model(unet_config=unet, cond_stage_config=None, global_stage_config=None, text_stage_config=TEXT)
    model.unet.out[-1].weight.data.normal_(std=0.1)  # zero in a new U-Net
    return model.eval().requires_grad_(False)


def test_prompts_are_sampled_as_sample_py_samples_them(monkeypatch, lines, reader):
    made = maker(monkeypatch, reader, scale=2.0, graph_scale=9.0).make(lines)
    for line, picture, options in zip(
        lines,
        made,
        (TextOptions(2, scale=2.0), TextOptions(2, scale=3.0, negative="blurry"), TextOptions(2, scale=2.0)),
    ):
        (expected,) = sample_texts(reader, [Prompt(line.prompt)], [line.seed], options)
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_a_picture_of_a_prompt_depends_on_its_line_alone(monkeypatch, lines, reader):
    made = maker(monkeypatch, reader)
    together, alone = made.make([lines[0], lines[2]])[1], made.make([lines[2]])[0]
    assert np.array_equal(np.asarray(together), np.asarray(alone))


def test_a_model_that_reads_no_text_says_so(monkeypatch, lines):
    with pytest.raises(UserError, match="this model reads no prompt"):
        maker(monkeypatch, tiny_model().eval()).make(lines[:1])


def test_a_line_takes_options_of_its_kind_only(tmp_path):
    path = tmp_path / "validation.jsonl"
    path.write_text(json.dumps({"id": "cat", "prompt": "a cat", "graph_scale": 2}))
    with pytest.raises(UserError, match="line 1.*graph_scale"):
        read_lines(path)

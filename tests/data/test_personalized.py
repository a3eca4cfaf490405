"""Pictures to learn from: captions, flips, masks and boxes, class pictures, and what is wrong with a folder."""

import json

import numpy as np
import pytest
import torch
from personal_models import PICTURES, batch_of, pictures, write_pictures
from PIL import Image

from ldm.data.personalized import TEMPLATES, mirror_caption
from ldm.util.errors import UserError
from ldm.util.images import read_image, resize_square, to_tensor


def test_captions_are_those_of_the_metadata_and_otherwise_templates_with_the_word(tmp_path):
    own = write_pictures(tmp_path / "own", ["a <my-cat>", "my <my-cat> again"])
    assert {pictures(own, flip=0)[index][0].text for index in range(2)} == {"a <my-cat>", "my <my-cat> again"}
    plain = pictures(write_pictures(tmp_path / "plain"), word="<my-cat>", templates="style")
    known = {template.format("<my-cat>") for template in TEMPLATES["style"]}
    assert {plain[index][0].text for index in range(40)} <= known
    assert len({plain[index][0].text for index in range(40)}) > 5


def test_an_epoch_shows_each_picture_so_often_and_depends_on_seed_and_epoch_alone(tmp_path):
    dataset = pictures(write_pictures(tmp_path / "cat"), word="<my-cat>", repeats=3, seed=1)
    assert len(dataset) == 12

    def sample():
        return [(each.text, each.seed, float(each.image.sum())) for (each,) in (dataset[i] for i in range(12))]

    first = sample()
    assert sample() == first
    dataset.epoch = 1
    assert sample() != first
    dataset.epoch = 0
    assert sample() == first and len({seed for _, seed, _ in first}) == 12


@pytest.mark.parametrize(
    "text, mirrored",
    [
        ("a dog left of a cat", "a dog right of a cat"),
        ("the leftmost <left-hand> is right here", "the rightmost <left-hand> is left here"),
        ("a bright light", "a bright light"),
    ],
)
def test_a_flip_swaps_left_and_right_in_the_caption_but_not_in_a_learned_word(text, mirrored):
    assert mirror_caption(text) == mirrored
    assert mirror_caption(mirrored) == text


def test_a_flipped_picture_has_the_flipped_pixels_caption_and_mask(tmp_path):
    folder = write_pictures(tmp_path / "cat", ["left"], boxes=[[0, 0, 0.5, 1]])
    (plain,), (flipped,) = pictures(folder, flip=0)[0], pictures(folder, flip=1)[0]
    assert torch.equal(flipped.image, plain.image.flip(-1)) and flipped.text == "right"
    assert torch.equal(flipped.weights, plain.weights.flip(-1)) and not torch.equal(flipped.weights, plain.weights)


def test_the_middle_square_is_cut_out_unless_the_picture_is_to_be_squeezed(tmp_path):
    folder = write_pictures(tmp_path / "cat", ["a"])  # 20 x 24 pixels
    image = read_image(folder / "0.png")
    cut = to_tensor(resize_square(image.crop((0, 2, 20, 22)), PICTURES))
    assert torch.equal(pictures(folder, flip=0)[0][0].image, cut)
    squeezed = to_tensor(resize_square(image, PICTURES))
    assert torch.equal(pictures(folder, flip=0, center_crop=False)[0][0].image, squeezed)


def test_masks_and_boxes_weigh_what_is_inside_by_one_and_the_rest_by_outside(tmp_path):
    folder = write_pictures(tmp_path / "cat", ["a"], boxes=[[0, 0, 0.5, 1]])
    weights = pictures(folder, flip=0, outside=0.25, center_crop=False)[0][0].weights[0]
    assert torch.equal(weights[:, : PICTURES // 2 - 1], torch.ones(PICTURES, PICTURES // 2 - 1))
    assert torch.equal(weights[:, PICTURES // 2 + 1 :], torch.full((PICTURES, PICTURES // 2 - 1), 0.25))
    (tmp_path / "masks").mkdir()
    mask = np.zeros((24, 20), np.uint8)
    mask[:12] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    masked = pictures(folder, flip=0, center_crop=False, mask_dir=str(tmp_path / "masks"))[0][0].weights[0]
    assert masked[: PICTURES // 2 - 1].eq(1).all() and masked[PICTURES // 2 + 1 :].eq(0).all(), (
        "a mask goes before boxes"
    )


def test_a_batch_holds_the_pictures_and_then_those_of_the_class(tmp_path):
    prior = write_pictures(tmp_path / "class" / "images", count=3)
    options = {"class_dir": str(prior.parent), "class_prompt": "a cat left", "class_images": 3}
    dataset = pictures(write_pictures(tmp_path / "cat"), word="<a>", templates=["my {}"], flip=0, **options)
    batch = batch_of(dataset, range(4))
    assert batch.count == 4 and batch.texts == ("my <a>",) * 4 + ("a cat left",) * 4 and len(set(batch.seeds)) == 8
    assert batch.image.shape == (8, 3, PICTURES, PICTURES) and batch.weights is None


def test_in_a_batch_a_picture_without_a_mask_counts_everywhere(tmp_path):
    folder = write_pictures(tmp_path / "cat", ["a", "b"])
    lines = [{"file_name": "0.png", "text": "a", "boxes": [[0, 0, 0.5, 0.5]]}, {"file_name": "1.png", "text": "b"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    weights = batch_of(pictures(folder, flip=0)).weights
    assert weights.shape == (2, 1, PICTURES, PICTURES) and weights[0].mean() < 0.5 and weights[1].eq(1).all()


BAD_LINES = {
    "not JSON": ("{", "not JSON"),
    "no text": ('{"file_name": "0.png"}', "a file_name and a text"),
    "a misspelt key": ('{"file_name": "0.png", "text": "a", "boxs": []}', "did you mean 'boxes'"),
    "no picture": ('{"file_name": "9.png", "text": "a"}', "there is no picture"),
    "outside": ('{"file_name": "../0.png", "text": "a"}', "outside of the folder"),
    "a box": ('{"file_name": "0.png", "text": "a", "boxes": [[0.5, 0, 0.1, 1]]}', "x0 < x1"),
    "nothing": ("", "is empty"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_wrong_metadata_is_one_sentence_with_its_line(tmp_path, case):
    line, words = BAD_LINES[case]
    folder = write_pictures(tmp_path / "cat", ["a"])
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=words) as error:
        pictures(folder)
    assert "metadata.jsonl" in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "word: missing"),
        ({"word": "<a>", "templates": ["no word"]}, "needs {} once"),
        ({"word": "<a>", "templates": "portrait"}, "object, style"),
        ({"word": "<a>", "class_images": 2}, "belong together"),
        ({"word": "<a>", "mask_dir": "nowhere"}, "has no mask for"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        pictures(write_pictures(tmp_path / "cat"), **options)


def test_a_folder_that_is_missing_or_empty_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        pictures(tmp_path / "nowhere")
    with pytest.raises(UserError, match="contains no pictures"):
        pictures(tmp_path)

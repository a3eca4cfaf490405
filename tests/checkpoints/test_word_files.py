"""Files of learned words: each form, as diffusers reads and writes it, LDM and A1111 make it, and what is refused."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_models import PROMPTS, sd1_encoder, text_model, write_tokenizer, xl_encoder
from torch import nn

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.word_files import collect_words, read_words, write_words
from ldm.modules.encoders.words import add_word, learned_words
from ldm.util.errors import UserError

WIDTH = 32
PROMPT = "a photo of <my-cat>, and a dog"


def vectors(count: int = 1, width: int = WIDTH, seed: int = 5):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def diffusers_holder(folder, model, **tokens):
    """What diffusers' pipelines load learned words into."""
    loaders = pytest.importorskip("diffusers.loaders")
    transformers = pytest.importorskip("transformers")

    class Holder(loaders.TextualInversionLoaderMixin):
        components: dict = {}
        _all_hooks: list = []
        hf_device_map = None
        device = torch.device("cpu")

    holder = Holder()
    write_tokenizer(folder)
    holder.tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="<|endoftext|>", **tokens
    )
    holder.text_encoder = model
    return holder


def states_of_diffusers(holder, prompt):
    text = holder.maybe_convert_prompt(prompt, holder.tokenizer)
    ids = holder.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    return holder.text_encoder(ids).last_hidden_state


def ours_on(model):
    return sd1_encoder({f"text_model.{key.removeprefix('text_model.')}": v for key, v in model.state_dict().items()})


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "name, form",
    [
        ("learned_embeds.bin", "diffusers"),
        ("learned_embeds.safetensors", "diffusers"),
        ("cat.pt", "a1111"),
    ],
)
def test_a_file_that_is_written_here_has_the_same_effect_in_diffusers(tmp_path, name, form, count):
    (path,) = write_words(tmp_path / name, {"<my-cat>": [vectors(count)]}, form)
    model = text_model()
    ours = ours_on(model)
    plain = ours([PROMPT]).tokens
    holder = diffusers_holder(tmp_path, model)
    holder.load_textual_inversion(str(path))
    add_word(ours, "<my-cat>", read_words(path).words["<my-cat>"].vectors)
    with torch.no_grad():
        expected = states_of_diffusers(holder, PROMPT)
    torch.testing.assert_close(ours([PROMPT]).tokens, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-2)


@pytest.mark.parametrize("number, key", [(0, "clip_l"), (1, "clip_g")])
def test_a_word_of_sdxl_has_the_same_effect_in_each_tower_of_diffusers(tmp_path, number, key):
    (path,) = write_words(tmp_path / "<my-cat>.safetensors", {"<my-cat>": [vectors(2), vectors(2, seed=6)]}, "sdxl")
    towers = [text_model(seed=0), text_model("CLIPTextModelWithProjection", seed=1, hidden_act="gelu")]
    ours = xl_encoder(
        {
            **{
                f"conditioner.embedders.0.transformer.text_model.{k.removeprefix('text_model.')}": v
                for k, v in towers[0].state_dict().items()
            },
            **second_tower(towers[1]),
        }
    )
    add_word(ours, "<my-cat>", read_words(path).words["<my-cat>"].vectors)
    holder = diffusers_holder(tmp_path, towers[number])
    holder.load_textual_inversion(load_file(path)[key], token="<my-cat>")
    text = holder.maybe_convert_prompt(PROMPT, holder.tokenizer)
    ids = holder.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
    if number:  # the second tower pads with 0
        ids = torch.where((ids == 49407).cumsum(1) > 1, 0, ids)
    with torch.no_grad():
        expected = holder.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    found = ours([PROMPT]).tokens[:, :, number * WIDTH : (number + 1) * WIDTH]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def second_tower(model):
    from text_models import open_clip_keys

    return open_clip_keys(model, "conditioner.embedders.1.model.")


def ldm_file(path, words, old=False):
    """What LDM's EmbeddingManager saves."""
    content = {
        "string_to_token": {word: torch.tensor(265) for word in words},
        "string_to_param": nn.ParameterDict({word: nn.Parameter(rows) for word, rows in words.items()}),
    }
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.mark.parametrize("old", [False, True])
def test_the_parameter_dict_of_ldm_is_read_without_unpickling_it(tmp_path, old):
    path = ldm_file(tmp_path / "embeddings.pt", {"*": vectors(2), "<other>": vectors(1, seed=1)}, old)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_words(path)
    assert found.form == "ldm" and list(found.words) == ["*", "<other>"]
    assert torch.equal(found.words["*"].vectors[0], vectors(2))


def test_a_parameter_dict_with_hostile_state_runs_nothing_and_gives_no_tensors(tmp_path):
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return open, (str(ran), "w")

    parameters = nn.ParameterDict()
    parameters.__dict__["_parameters"] = {"*": Hostile(), "real": nn.Parameter(vectors())}
    torch.save({"string_to_param": parameters}, tmp_path / "bad.pt")
    assert list(read_words(tmp_path / "bad.pt").words) == ["real"] and not ran.exists()


def test_a_file_for_ldm_has_what_its_embedding_manager_reads(tmp_path):
    (path,) = write_words(tmp_path / "embeddings.pt", {"<my-cat>": [vectors(2)]}, "ldm")
    content = torch.load(path, weights_only=False)
    assert list(content["string_to_token"]) == ["<my-cat>"]
    assert isinstance(content["string_to_param"], nn.ParameterDict)
    assert torch.equal(content["string_to_param"]["<my-cat>"], vectors(2))


def test_the_names_of_a1111s_and_sdxls_words_are_those_of_the_file(tmp_path):
    save_file({"emb_params": vectors(2)}, tmp_path / "rex.safetensors")
    save_file({"clip_l": vectors(2), "clip_g": vectors(2, 20)}, tmp_path / "felix.safetensors")
    assert list(read_words(tmp_path / "rex.safetensors").words) == ["rex"]
    word = read_words(tmp_path / "felix.safetensors").words["felix"]
    assert [rows.shape for rows in word.vectors] == [(2, WIDTH), (2, 20)]


@pytest.mark.parametrize(
    "form, name", [("diffusers", "x.bin"), ("diffusers", "x.safetensors"), ("ldm", "x.pt"), ("a1111", "x.pt")]
)
def test_every_form_gives_back_the_bits_that_were_written(tmp_path, form, name):
    write_words(tmp_path / name, {"<a>": [vectors(3)]}, form)
    assert torch.equal(read_words(tmp_path / name).words["<a>"].vectors[0], vectors(3))


def test_words_of_one_name_ask_for_a_new_one_and_overwrite_nothing(tmp_path):
    first, second = (
        write_words(tmp_path / name, {"<a>": [vectors(seed=n)]})[0] for n, name in enumerate(("1.bin", "2.bin"))
    )
    with pytest.raises(CheckpointError, match="--rename"):
        collect_words([first, second])
    found = collect_words([first, second], {f"{second}/<a>": "<b>"})
    assert [torch.equal(found[name].vectors[0], vectors(seed=n)) for n, name in enumerate(("<a>", "<b>"))] == [
        True,
        True,
    ]
    with pytest.raises(CheckpointError, match="no file has the word '<c>'"):
        collect_words([first], {"<c>": "<d>"})


def test_two_files_with_the_widths_of_sdxls_towers_are_one_word(tmp_path):
    written = write_words(tmp_path / "w.safetensors", {"<a>": [vectors(1, 768), vectors(1, 1280)]})
    assert [path.name for path in written] == ["w.safetensors", "w_2.safetensors"]
    for order in (written, written[::-1]):
        assert [rows.shape[1] for rows in collect_words(order)["<a>"].vectors] == [768, 1280]


BAD = {
    "missing": (None, "there is no such file"),
    "a LoRA": ({"lora_unet_x.lora_down.weight": torch.zeros(2, 3)}, "a LoRA is given as --lora"),
    "one tower of SDXL": ({"clip_l": torch.zeros(1, 3)}, "without clip_g"),
    "a matrix too many": ({"<a>": torch.zeros(1, 2, 3)}, "not \\(n,D\\)"),
    "not finite": ({"<a>": torch.full((2,), float("nan"))}, "not finite"),
    "nothing": ({"x": 3}, "holds no learned words"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_files_are_one_sentence(tmp_path, case):
    content, words = BAD[case]
    path = tmp_path / "bad.pt"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=words) as error:
        read_words(path)
    assert str(path) in str(error.value)


def test_damaged_files_are_one_sentence(tmp_path):
    (path,) = write_words(tmp_path / "a.pt", {"<a>": [vectors()]}, "ldm")
    content = path.read_bytes()
    for cut in (10, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError):
            read_words(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(CheckpointError):
        read_words(path)


@pytest.mark.parametrize(
    "name, words", [("my cat", "spaces separate words"), ("cat", "knows this word"), ("<|endoftext|>", "mark")]
)
def test_a_word_that_texts_cannot_contain_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        add_word(sd1_encoder(init="random"), name, [vectors()])


def test_vectors_of_another_model_are_refused_with_both_widths():
    with pytest.raises(UserError, match="width 20, and those of this text encoder have 32"):
        add_word(sd1_encoder(init="random"), "<a>", [vectors(1, 20)])
    with pytest.raises(UserError, match="1 text towers, and this text encoder has 2"):
        add_word(xl_encoder(init="random"), "<a>", [vectors()])


def test_a_text_encoder_that_has_not_learned_a_word_of_another_reads_it_as_plain_text():
    plain, other = sd1_encoder(init="random"), sd1_encoder(init="random")
    text = "a photo of <never-seen>"
    before = plain([text]).tokens
    add_word(other, "<never-seen>", [vectors()])
    assert torch.equal(plain([text]).tokens, before)


def test_known_words_keep_their_bits_when_words_are_learned():
    encoder = sd1_encoder(init="random")
    before = [encoder([prompt]).tokens for prompt in PROMPTS]
    table = encoder.model.token_embedding.weight.clone()
    add_word(encoder, "<a>", [vectors(4)])
    assert all(torch.equal(encoder([prompt]).tokens, tokens) for prompt, tokens in zip(PROMPTS, before))
    assert torch.equal(encoder.model.token_embedding.weight, table)
    assert torch.equal(learned_words(encoder)["<a>"][0], vectors(4))

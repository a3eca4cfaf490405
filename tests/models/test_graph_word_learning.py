"""A trained model learns names from annotated pictures: only their rows move, and they load beside the same tables alone."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import MODEL, demo_batch, tiny_model

from ldm.checkpoints.graph_word_files import write_graph_words
from ldm.graph.batch import Batch, collate
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.denoising_loss import mean_errors
from ldm.models.diffusion.graph_words import GraphWords
from ldm.models.export import export_adapters
from ldm.models.loading import load_model
from ldm.models.vocabulary import check_names
from ldm.models.word_loading import add_graph_words, load_words
from ldm.synthetic.shapes import VOCAB
from ldm.util.errors import ConfigError, UserError
from ldm.words.naming import Naming

WORDS = [
    {"word": "zorp", "init": "triangle"},
    {"word": "crimson", "kind": "attribute"},
    {"word": "over", "kind": "predicate", "init": "above"},
]
GRAPH = SceneGraph(("zorp", "circle"), triples=((0, "over", 1),), attributes=(("crimson",), ("blue",)))


@pytest.fixture(scope="module")
def adapters(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "adapters.safetensors"
    export_adapters(checkpoint, path)
    return path


def learner(path, words=WORDS, **params) -> GraphWords:
    torch.manual_seed(0)
    return GraphWords(adapters=str(path), words=words, **copy.deepcopy(MODEL["params"]) | params)


def annotated(model: GraphWords) -> Batch:
    image = demo_batch(2).image
    assert image is not None
    return collate([(each, GRAPH) for each in image], model.taught_vocab)


def train(model: GraphWords, steps: int = 3) -> None:
    batch = annotated(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model.losses(batch, torch.Generator().manual_seed(step))[0].mean().backward()
        optimizer.step()


def state(model) -> dict:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def trained(adapters):
    model = learner(adapters)
    before = state(model)
    train(model.train())
    return model, before


def test_training_moves_the_new_rows_and_no_other_bit(trained):
    model, before = trained
    rows = {f"cond_stage_model.{table}.added" for table in ("name", "attribute", "predicate")}
    moved = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert moved == rows == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_checkpoint_holds_the_rows_and_nothing_that_is_frozen(trained):
    saved = {}
    trained[0].on_save_checkpoint(saved)
    assert {name for name in saved["state_dict"] if name != "scale_factor"} == {
        f"cond_stage_model.{table}.added" for table in ("name", "attribute", "predicate")
    }


def test_words_of_a_file_give_another_process_the_learners_tokens(trained, adapters, tmp_path):
    path = write_graph_words(tmp_path / "words.safetensors", trained[0].learned())
    model = load_model(adapters, words=[path])
    assert model.vocab == trained[0].taught_vocab
    batch = collate([(torch.zeros(3, 32, 32), GRAPH)], model.vocab)
    with torch.no_grad():
        expected = trained[0].cond_stage_model.eval()(batch.graph).tokens
        torch.testing.assert_close(model.cond_stage_model(batch.graph).tokens, expected)


def test_with_words_of_a_file_all_that_was_there_keeps_its_bits(trained, adapters, tmp_path):
    path = write_graph_words(tmp_path / "words.safetensors", trained[0].learned())
    plain, model = load_model(adapters), load_model(adapters, words=[path])
    mine = state(model)
    assert all(torch.equal(mine[name], value) for name, value in state(plain).items())
    graph = demo_batch(4).graph
    assert torch.equal(plain.cond_stage_model(graph).tokens, model.cond_stage_model(graph).tokens)


def test_names_of_a_file_are_names_before_the_model_is_loaded_and_open_words_may_stand_beside_them(
    trained, adapters, tmp_path
):
    path = write_graph_words(tmp_path / "words.safetensors", trained[0].learned())
    assert check_names({"g": GRAPH}, adapters, None, None, [path]) == {"g": GRAPH}
    with pytest.raises(UserError, match="'zorp' is not in the vocabulary"):
        check_names({"g": GRAPH}, adapters, None)
    renamed = replace(GRAPH, objects=("blip", "circle"))
    assert check_names({"g": renamed}, adapters, None, Naming(), [path], [("zorp", "blip")]) == {"g": renamed}


def test_words_are_refused_by_other_tables_and_by_a_vocabulary_that_has_them(trained, adapters, tmp_path):
    path = write_graph_words(tmp_path / "words.safetensors", trained[0].learned())
    torch.manual_seed(5)
    other = tiny_model()
    with pytest.raises(UserError, match="'crimson' was learned with another graph encoder"):
        load_words(other, [path])
    model = load_model(adapters, words=[path])
    with pytest.raises(
        UserError, match="'crimson' is a name of the vocabulary already; give it a new one, such as --rename"
    ):
        load_words(model, [path])
    load_words(model, [path], {"zorp": "blip", "crimson": "scarlet", "over": "on top of"})
    assert model.vocab.object_id("blip") == len(VOCAB.objects) + 1
    with pytest.raises(UserError, match="--rename a=b: no file has the word 'a'"):
        load_words(load_model(adapters), [path], {"a": "b"})


def test_a_model_without_a_vocabulary_of_its_own_refuses_graph_words(trained):
    model = tiny_model()
    model.vocab = None
    with pytest.raises(UserError, match="no graph encoder with a vocabulary of its own"):
        add_graph_words(model, trained[0].learned())


def test_lora_beside_the_words_begins_as_the_identity_and_trains_with_them_and_nothing_else(adapters):
    plain, model = learner(adapters), learner(adapters, lora=[{"part": "unet", "targets": ["resnets"], "rank": 2}])
    batch = annotated(plain)
    losses = [each.losses(batch, torch.Generator().manual_seed(0))[0] for each in (plain, model)]
    assert torch.equal(*losses)
    before = state(model)
    train(model)
    moved = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in moved} == {"lora_A", "lora_B", "added"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing would be learned"),
        ([{"word": "circle"}], "'circle' is a name of the vocabulary already"),
        ([{"word": "zorp"}, {"word": "zorp"}], "there already; name each once"),
        ([{"word": "zorp", "kind": "objekt"}], "kind: 'objekt'; choose object, predicate, attribute; did you mean"),
        ([{"word": "zorp", "inti": "circle"}], "no key 'inti'"),
        ([{"word": "zorp", "init": "red"}], "'red' is not in the vocabulary"),
        ([{"word": " "}], "a name cannot be ' '"),
        ([{"word": 3}], "word and init are texts"),
        (["zorp"], "is 'zorp'; a word has the keys"),
    ],
)
def test_a_wrong_entry_is_one_sentence(adapters, words, sentence):
    with pytest.raises(UserError, match=sentence):
        learner(adapters, words)


def test_adapters_that_are_missing_or_of_another_model_are_one_sentence(adapters, tmp_path):
    with pytest.raises(UserError, match="model.params.adapters: .*nowhere"):
        learner(tmp_path / "nowhere")
    with pytest.raises(UserError, match="trained with other trainable parts"):
        learner(adapters, freeze_unet=False)


def test_the_first_batch_does_not_scale_the_latents_of_a_trained_model_anew(adapters):
    assert not learner(adapters, scale_by_std=True).scale_by_std


def test_pictures_of_another_vocabulary_are_one_sentence(adapters):
    model = learner(adapters)
    model.vocab = VOCAB
    with pytest.raises(ConfigError, match="the vocabulary of the pictures is not that of the model"):
        model.setup("fit")


def test_the_loss_outside_of_the_words_boxes_counts_as_much_as_it_is_told(adapters):
    box = (0.0, 0.0, 0.5, 1.0)
    graphs = [replace(GRAPH, boxes=(box, box)), SceneGraph(("circle",), boxes=(box,))]
    images = torch.zeros(2, 3, 32, 32)

    def losses(errors, **params):
        model = learner(adapters, **params)
        batch = collate(list(zip(images, graphs)), model.taught_vocab)
        return mean_errors(errors, model.pixel_weights(batch, errors))

    errors = torch.zeros(2, 4, 4, 4)
    errors[..., 3] = 1  # right of the boxes, and of the half cell around them
    torch.testing.assert_close(losses(errors), torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(losses(errors, outside=0.0), torch.tensor([0.0, 0.25]))
    weighted = 0.2 / (2 + 0.6 + 0.2)  # columns: twice inside, half covered, outside
    torch.testing.assert_close(losses(errors, outside=0.2), torch.tensor([weighted, 0.25]))
    with pytest.raises(ConfigError, match="model.params.outside"):
        learner(adapters, outside=1.5)

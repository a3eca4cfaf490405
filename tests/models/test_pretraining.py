"""Pre-training of graph encoders: losses in closed form, object masks, trainable parameters and checkpoints."""

import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import distributed
from torch.nn.functional import mse_loss

from ldm.checkpoints.loading import CheckpointError
from ldm.data.datamodule import DataModuleFromConfig
from ldm.data.demo import DemoTrain
from ldm.graph.batch import collate, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.models.pretraining import (
    MASK_VALUE,
    GraphImagePretraining,
    contrastive_loss,
    mask_objects,
    recall_at_k,
    sample_masked_objects,
)
from ldm.modules.cgip.cgip import CGIPModel
from ldm.modules.global_film import CLIPGlobalEncoder
from ldm.modules.image_encoder import image_tower
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config, resolve
from ldm.util.config_merging import read_configs

VIT = {"embed_dim": 16, "image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
IMAGE = {"target": "ldm.modules.global_film.CLIPGlobalEncoder", "params": {"init": "random", "model_name": VIT}}
CGIP = {
    "target": "ldm.modules.cgip.cgip.CGIPModel",
    "params": {"num_objs": 4, "num_preds": 8, "width": 16, "layers": 1, "embed_dim": 16},
}
NSG = {
    "target": "ldm.modules.nsg_encoder.NSGEncoder",
    "params": {
        "num_objs": 4,
        "num_preds": 8,
        "num_attributes": 10,
        "dim": 24,
        "depth": 1,
        "heads": 2,
        "max_tokens": 20,
    },
}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 1.0, 0.5)


def make(graph=CGIP, **params):
    torch.manual_seed(0)
    defaults = {"image_config": IMAGE, "decoder_heads": 2, "decoder_dim_head": 16, "warmup_steps": 0}
    return GraphImagePretraining(graph, **defaults | params)


def demo(indices=range(6), **options):
    scenes = DemoTrain(6, image_size=32, boxes="all", **options)
    return collate([scenes[index] for index in indices], VOCAB)


def fit(model, epochs=1, batches=2, callbacks=()):
    split = {"target": "ldm.data.demo.DemoTrain", "params": {"size": 4 * batches, "image_size": 32}}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, DataModuleFromConfig(batch_size=4, train=split, validation=split, num_workers=0))
    return trainer


class Losses(pl.Callback):
    """Records the logged values of each training step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class OptimizedParameters(pl.Callback):
    """Records the ids of the optimizer's parameters at the end of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, model):
        self.epochs.append({id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after two epochs, what was recorded of them, and its checkpoint."""
    model = make()
    model.config, model.vocab = {"model": "here"}, VOCAB
    decoder, weights_before = model.decoder, [p.detach().clone() for p in model.decoder.parameters()]
    losses, optimized = Losses(), OptimizedParameters()
    trainer = fit(model, epochs=2, callbacks=[losses, optimized])
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    trainer.save_checkpoint(path)
    return SimpleNamespace(
        model=model,
        decoder=decoder,
        decoder_weights_before=weights_before,
        optimizer=trainer.optimizers[0],
        losses=losses.steps,
        optimized=optimized.epochs,
        checkpoint=path,
    )


# Masks ---------------------------------------------------------------------------------------------------------------


def graph_of(*boxes):
    return encode([SceneGraph(("circle",) * len(boxes), boxes)], VOCAB)


def test_a_mask_covers_exactly_the_pixels_whose_centre_is_in_the_box():
    image = torch.ones(1, 3, 4, 8)
    graph = graph_of((0.3, 0.2, 0.7, 0.6))  # from 2.4 to 5.6 across, from 0.8 to 2.4 down
    masked = (mask_objects(image, graph, torch.tensor([True, False])) == MASK_VALUE)[0]
    rows, columns = masked[0].nonzero().T
    assert set(rows.tolist()) == {1} and set(columns.tolist()) == {2, 3, 4, 5}
    assert torch.equal(masked, masked[:1].expand(3, -1, -1))


def test_overlapping_boxes_are_masked_once():
    image, graph = torch.full((1, 3, 8, 8), -0.75), graph_of(LEFT, RIGHT)
    masked = mask_objects(image, graph, torch.tensor([True, True, False]))
    assert set(masked.flatten().tolist()) == {MASK_VALUE, -0.75}


def test_masking_all_objects_leaves_the_rest_of_the_image():
    graph = graph_of(LEFT)
    masked_objects = sample_masked_objects(graph, 1.0)
    assert masked_objects.tolist() == [True, False]  # the second is __image__, whose box is all of the image
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(mask_objects(image, graph, masked_objects)[..., 4:], image[..., 4:])


def test_objects_without_a_box_or_with_probability_0_are_not_masked():
    assert not sample_masked_objects(graph_of(None), 1.0).any()
    assert not sample_masked_objects(graph_of(LEFT, RIGHT), 0.0).any()


def test_objects_are_masked_independently_with_the_given_probability():
    torch.manual_seed(0)
    graph = graph_of(LEFT, RIGHT)
    drawn = torch.stack([sample_masked_objects(graph, 0.3) for _ in range(4000)]).float()[:, :2]
    assert drawn.mean(0).tolist() == pytest.approx([0.3, 0.3], abs=0.03)
    assert (drawn[:, 0] * drawn[:, 1]).mean().item() == pytest.approx(0.09, abs=0.02)


def test_images_are_masked_by_their_own_objects_only():
    graph = encode([SceneGraph(("circle",), (LEFT,)), SceneGraph(("circle",), (RIGHT,))], VOCAB)
    image = torch.ones(2, 3, 8, 8)
    masked = mask_objects(image, graph, torch.tensor([False, False, True, False]))
    assert torch.equal(masked[0], image[0]) and not torch.equal(masked[1], image[1])


# Losses and retrieval -------------------------------------------------------------------------------------------------


def test_the_contrastive_loss_of_perfect_and_of_equal_embeddings_is_the_closed_form():
    scale, eye, equal = torch.tensor(3.0), torch.eye(5), torch.ones(5, 1)
    assert contrastive_loss(eye, eye, scale).item() == pytest.approx(math.log(1 + 4 * math.exp(-3)), rel=1e-5)
    assert contrastive_loss(equal, equal, scale).item() == pytest.approx(math.log(5), rel=1e-5)


def test_recall_counts_the_items_that_are_closer():
    items = torch.eye(4)
    queries = torch.tensor(
        [[4.0, 1, 2, 3], [4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]]
    )  # rank of the matching item: 1, 2, 3, 4
    assert [recall_at_k(queries, items, k).item() for k in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1, 1]


def test_constant_embeddings_have_the_recall_of_chance():
    equal = torch.ones(8, 3)
    assert recall_at_k(equal, equal, 1) == 1 / 8 and recall_at_k(equal, equal, 5) == 5 / 8


def test_each_loss_is_logged_under_its_name(trained):
    assert len(trained.losses) == 4
    for step in trained.losses:
        assert step["train/loss"] == pytest.approx(step["train/contrastive"] + step["train/masked"], rel=1e-5)
        assert abs(step["train/contrastive"] - step["train/masked"]) > 0.01


@pytest.mark.parametrize("graph", [CGIP, NSG])
def test_validation_logs_losses_and_recall_over_the_whole_set_and_by_chance(graph):
    model = make(graph)
    logged = fit(model, batches=3).callback_metrics
    assert logged["val/chance_R@1"] == pytest.approx(1 / 12) and logged["val/chance_R@5"] == pytest.approx(5 / 12)
    image, graph = (torch.cat(x) for x in zip(*model.validation_embeddings))
    assert len(image) == 12
    assert logged["val/image_to_graph_R@1"] == (image @ graph.T).argmax(1).eq(torch.arange(12)).float().mean()
    assert logged["val/graph_to_image_R@1"] == (image @ graph.T).argmax(0).eq(torch.arange(12)).float().mean()
    assert {"val/loss", "val/contrastive", "val/masked", "val/masked_of_mean", "train/scale"} <= logged.keys()


def test_of_mean_is_the_masked_loss_of_predicting_the_mean():
    model, batch = make(), demo()
    patches = model.image_features(batch.image)[1]
    mean = patches.mean(0, keepdim=True).expand_as(patches)
    assert model.losses(batch).of_mean.item() == pytest.approx(mse_loss(mean, patches).item(), rel=1e-4)


def test_the_masked_loss_of_an_identity_decoder_on_unmasked_images_is_0():
    model = make(mask_probability=0.0)
    for layer in (model.decoder.attn1.to_out[0], model.decoder.attn2.to_out[0], model.decoder.ff.net[2]):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    assert model.losses(demo()).masked == 0


def test_the_graph_embedding_is_the_mean_of_unpadded_tokens():
    model, graph = make(NSG), encode([SceneGraph(("circle",), (LEFT,))], VOCAB)
    cond = model.cond_stage_model(graph)
    assert cond.mask.sum() == 3
    torch.testing.assert_close(model.graph_embedding(cond)[0], model.to_image_space(cond.tokens[0, :3].mean(0)))


def test_graph_embeddings_are_projected_unless_they_have_the_size_of_image_embeddings():
    nsg = NSG | {"params": NSG["params"] | {"dim": VIT["embed_dim"]}}
    smaller = CGIP | {"params": CGIP["params"] | {"embed_dim": 8}}
    assert ["projection" in make(graph).parts() for graph in (CGIP, nsg, smaller)] == [False, True, True]


def test_the_initial_weights_of_a_trainable_image_tower_depend_on_the_seed():
    first, again = (GraphImagePretraining(CGIP, IMAGE, train_image=True).visual.proj for _ in range(2))
    assert not torch.equal(first, again)


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [CGIP, NSG])
@pytest.mark.parametrize("train_image", [False, True])
def test_trainable_parameters_have_gradients_and_frozen_ones_have_none(graph, train_image):
    model = make(graph, train_image=train_image)
    output = model.losses(demo())
    (output.contrastive + output.masked).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (train_image or not name.startswith("image_model.")), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_masked_loss_does_not_train_the_image_tower():
    model = make(train_image=True)
    model.losses(demo()).masked.backward()
    assert all(p.grad is None for p in model.image_model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.cond_stage_model.parameters())


def test_the_same_decoder_is_trained_in_every_epoch(trained):
    assert trained.model.decoder is trained.decoder and len(trained.optimized) == 2
    assert all(ids >= {id(p) for p in trained.decoder.parameters()} for ids in trained.optimized)
    pairs = zip(trained.decoder.parameters(), trained.decoder_weights_before, strict=True)
    assert all(not torch.equal(after, before) for after, before in pairs)


def test_images_are_preprocessed_as_for_clip():
    model, image = make(), demo().image
    clip = CLIPGlobalEncoder(
        VIT, normalize=False, init="random"
    )  # compared with open_clip's preprocessing in another test
    clip.visual.load_state_dict(model.visual.state_dict())
    torch.testing.assert_close(model.image_features(image)[0], clip(image))


def test_training_leaves_no_hooks(trained):
    def count(model):
        return [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]

    assert count(trained.model) == count(make())


def test_the_contrastive_scale_starts_at_1_over_007_and_is_limited_to_100():
    model = make()
    assert model.scale.item() == pytest.approx(1 / 0.07)
    model.logit_scale.data.fill_(8.0)
    model.on_train_batch_end()
    assert model.scale.item() == pytest.approx(100)


def test_weight_decay_applies_to_matrices_and_not_to_vectors(trained):
    optimizer = trained.optimizer
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trained.model.named_parameters():
        if parameter.requires_grad:
            assert decay.pop(id(parameter)) == (0.2 if parameter.ndim >= 2 else 0), name
    assert not decay and all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)


def test_the_learning_rate_rises_linearly_and_decays_by_a_cosine():
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"] / 5e-4)

    fit(make(warmup_steps=4), epochs=4, batches=2, callbacks=[Watch()])  # recorded after each of 8 steps
    decay = [0.5 + 0.5 * math.cos(math.pi * step / 4) for step in range(5)]
    assert rates == pytest.approx([0.5, 0.75, 1.0, *decay], abs=1e-6)


# Weights --------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_trainable_parameters_config_and_vocabulary(trained):
    saved = torch.load(trained.checkpoint, weights_only=True)
    assert saved["state_dict"].keys() == {name for name, p in trained.model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("image_model") for name in saved["state_dict"])
    assert saved["config"] == {"model": "here"} and tuple(saved["vocab"]["object_idx_to_name"]) == VOCAB.objects


def test_a_graph_encoder_is_loaded_from_a_pretraining_checkpoint(trained):
    graph = demo().graph
    encoder = CGIPModel(**CGIP["params"], ckpt_path=trained.checkpoint)
    assert encoder.weights_from == str(trained.checkpoint)
    assert torch.equal(encoder(graph).tokens, trained.model.cond_stage_model(graph).tokens)


def test_a_resumed_run_has_the_same_frozen_image_tower(trained):
    torch.manual_seed(99)
    resumed = GraphImagePretraining(CGIP, image_config=IMAGE, decoder_heads=2, decoder_dim_head=16)
    saved = torch.load(trained.checkpoint, weights_only=True)
    resumed.on_load_checkpoint(saved)
    resumed.load_state_dict(saved["state_dict"], strict=resumed.strict_loading)
    pairs = zip(resumed.state_dict().values(), trained.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_with_other_trainable_parts_is_an_error(trained):
    with pytest.raises(CheckpointError, match="trainable parts"):
        make(NSG).on_load_checkpoint(torch.load(trained.checkpoint, weights_only=True))


def encoder_with_resnet():
    encoder = CLIPGlobalEncoder(VIT, init="random")
    encoder.visual = image_tower({"embed_dim": 16, "image_size": 32, "layers": [1, 1, 1, 1], "width": 8})
    return encoder


def test_an_image_tower_without_patches_is_an_error():
    with pytest.raises(ValueError, match="ModifiedResNet"):
        make(image_config={"target": f"{__name__}.encoder_with_resnet"})


def test_logged_images_are_unmasked_and_masked_inputs():
    torch.manual_seed(0)
    batch, images = demo(), make(mask_probability=1.0).log_images(demo(), n=4)
    assert torch.equal(images["inputs"], batch.image[:4]) and images["masked"].shape == (4, 3, 32, 32)
    changed = (images["masked"] != images["inputs"]).any(1)
    assert (
        0.05 < changed.float().mean() < 0.9 and (images["masked"].permute(1, 0, 2, 3)[:, changed] == MASK_VALUE).all()
    )


@pytest.mark.parametrize("names", [["vg"], ["vg", "coco"]])
def test_the_configs_build_models_of_the_published_sizes(names, request):
    config = read_configs([request.config.rootpath / "configs" / f"pretrain_{name}.yaml" for name in names])
    config.model.params.image_config.params.init = "random"
    with torch.device("meta"):
        model = instantiate_from_config(config.model)
    block = model.decoder
    assert block.norm1.normalized_shape == (768,) and block.attn2.heads == 8
    assert block.attn2.to_k.weight.shape == (8 * 64, 1536)
    objects, predicates, _ = resolve(config.data.params.train.target).published_vocabulary
    graph = model.cond_stage_model
    assert (graph.obj_embeddings.num_embeddings, graph.pred_embeddings.num_embeddings) == (objects + 1, predicates)


# Processes ------------------------------------------------------------------------------------------------------------


def run_rank(rank, folder):
    """The loss of one of two processes, and the mean of both processes' gradients, as DistributedDataParallel takes it."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model = make(mask_probability=1.0)
        output = model.losses(demo(range(3 * rank, 3 * rank + 3)))  # the first or the second half of demo()
        (output.contrastive + output.masked).backward()
        gradients = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                distributed.all_reduce(parameter.grad)
                gradients[name] = parameter.grad / 2
        return output.contrastive.detach(), gradients
    finally:
        distributed.destroy_process_group()


def second_process(_, folder):
    torch.set_num_threads(1)
    torch.save(run_rank(1, folder), f"{folder}/second.pt")


def test_two_processes_compute_the_loss_and_gradients_of_the_joint_batch(tmp_path):
    process = torch.multiprocessing.spawn(second_process, (str(tmp_path),), nprocs=1, join=False)
    first = run_rank(0, tmp_path)
    process.join()
    model = make(mask_probability=1.0)
    output = model.losses(demo())
    (output.contrastive + output.masked).backward()
    for contrastive, gradients in (first, torch.load(tmp_path / "second.pt", weights_only=True)):
        torch.testing.assert_close(contrastive, output.contrastive.detach(), rtol=1e-5, atol=0)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


# Styles ---------------------------------------------------------------------------------------------------------------


def test_the_style_loss_matches_images_with_their_references():
    model, batch = make(train_image=True, train_style=True), demo(reference=True)
    output = model.losses(batch)
    image, reference = (model.to_style(model.image_features(x)[0]) for x in (batch.image, batch.reference))
    similar = torch.nn.functional.cosine_similarity(image[:, None], reference[None], dim=-1) * model.scale
    matching = torch.arange(6)
    expected = (
        torch.nn.functional.cross_entropy(similar, matching) + torch.nn.functional.cross_entropy(similar.T, matching)
    ) / 2
    assert output.style.item() == pytest.approx(expected.item(), rel=1e-4)
    output.style.backward()
    assert model.visual.conv1.weight.grad.abs().sum() > 0 and model.to_content.weight.grad is None


def test_without_style_training_the_image_embedding_is_not_projected():
    model, batch = make(), demo()
    output = model.losses(batch)
    assert output.style == 0
    assert torch.allclose(output.image, torch.nn.functional.normalize(model.image_features(batch.image)[0], dim=-1))

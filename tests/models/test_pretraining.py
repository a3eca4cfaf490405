"""The first stage: its losses against closed forms, its covers pixel by pixel, and what it must not inherit."""

import math

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import distributed
from torch.nn.functional import mse_loss

from ldm.checkpoints.loading import CheckpointError
from ldm.data.datamodule import DataModuleFromConfig
from ldm.data.demo import DemoTrain
from ldm.graph.batch import collate, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.models.pretraining import MASK_VALUE, GraphImagePretraining, contrastive_loss, sample_masked_objects, mask_objects, recall_at_k
from ldm.modules.cgip.cgip import CGIPModel
from ldm.modules.global_film import CLIPGlobalEncoder, image_tower
from ldm.synthetic.shapes import VOCAB
from ldm.util.config import instantiate_from_config, resolve

VIT = dict(embed_dim=16, image_size=32, layers=1, width=32, patch_size=8, head_width=16)
IMAGE = {"target": "ldm.modules.global_film.CLIPGlobalEncoder", "params": {"init": "random", "model_name": VIT}}
CGIP = {
    "target": "ldm.modules.cgip.cgip.CGIPModel",
    "params": dict(num_objs=4, num_preds=8, width=16, layers=1, embed_dim=16),
}
NSG = {
    "target": "ldm.modules.nsg_encoder.NSGEncoder",
    "params": dict(num_objs=4, num_preds=8, num_attributes=10, dim=24, depth=1, heads=2, max_tokens=20),
}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 1.0, 0.5)


def make(graph=CGIP, **params):
    torch.manual_seed(0)
    defaults = dict(image_config=IMAGE, decoder_heads=2, decoder_dim_head=16, warmup_steps=0)
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
    """What each training step logged."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


# Covers ---------------------------------------------------------------------------------------------------------------


def graph_of(*boxes):
    return encode([SceneGraph(("circle",) * len(boxes), boxes)], VOCAB)


def test_a_cover_takes_the_pixels_whose_middle_is_in_the_box_and_no_other():
    image = torch.ones(1, 3, 4, 8)
    graph = graph_of((0.3, 0.2, 0.7, 0.6))  # from 2.4 to 5.6 across, from 0.8 to 2.4 down
    covered = (mask_objects(image, graph, torch.tensor([True, False])) == MASK_VALUE)[0]
    rows, columns = covered[0].nonzero().T
    assert set(rows.tolist()) == {1} and set(columns.tolist()) == {2, 3, 4, 5}
    assert torch.equal(covered, covered[:1].expand(3, -1, -1))


def test_where_boxes_overlap_the_cover_is_no_thicker():
    image, graph = torch.full((1, 3, 8, 8), -0.75), graph_of(LEFT, RIGHT)
    covered = mask_objects(image, graph, torch.tensor([True, True, False]))
    assert set(covered.flatten().tolist()) == {MASK_VALUE, -0.75}


def test_with_every_object_covered_the_rest_of_the_picture_is_still_there():
    graph = graph_of(LEFT)
    hidden = sample_masked_objects(graph, 1.0)
    assert hidden.tolist() == [True, False]  # the second is __image__, whose box is all of the image
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(mask_objects(image, graph, hidden)[..., 4:], image[..., 4:])


def test_objects_without_a_box_and_with_probability_zero_are_not_covered():
    assert not sample_masked_objects(graph_of(None), 1.0).any()
    assert not sample_masked_objects(graph_of(LEFT, RIGHT), 0.0).any()


def test_objects_are_drawn_one_by_one_with_the_given_probability():
    torch.manual_seed(0)
    graph = graph_of(LEFT, RIGHT)
    drawn = torch.stack([sample_masked_objects(graph, 0.3) for _ in range(4000)]).float()[:, :2]
    assert drawn.mean(0).tolist() == pytest.approx([0.3, 0.3], abs=0.03)
    assert (drawn[:, 0] * drawn[:, 1]).mean().item() == pytest.approx(0.09, abs=0.02)


def test_an_image_is_covered_by_its_own_objects_alone():
    graph = encode([SceneGraph(("circle",), (LEFT,)), SceneGraph(("circle",), (RIGHT,))], VOCAB)
    image = torch.ones(2, 3, 8, 8)
    covered = mask_objects(image, graph, torch.tensor([False, False, True, False]))
    assert torch.equal(covered[0], image[0]) and not torch.equal(covered[1], image[1])


# Losses and retrieval -------------------------------------------------------------------------------------------------


def test_the_contrastive_loss_of_perfect_and_of_equal_embeddings_is_the_closed_form():
    scale, eye, equal = torch.tensor(3.0), torch.eye(5), torch.ones(5, 1)
    assert contrastive_loss(eye, eye, scale).item() == pytest.approx(math.log(1 + 4 * math.exp(-3)), rel=1e-5)
    assert contrastive_loss(equal, equal, scale).item() == pytest.approx(math.log(5), rel=1e-5)


def test_recall_counts_how_many_are_closer():
    items = torch.eye(4)
    queries = torch.tensor([[4.0, 1, 2, 3], [4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])  # own item: 1st, 2nd, 3rd, 4th
    assert [recall_at_k(queries, items, k).item() for k in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1, 1]


def test_a_model_to_which_everything_is_alike_recalls_what_chance_does():
    alike = torch.ones(8, 3)
    assert recall_at_k(alike, alike, 1) == 1 / 8 and recall_at_k(alike, alike, 5) == 5 / 8


def test_each_loss_is_logged_under_its_own_name():
    losses = Losses()
    fit(make(), callbacks=[losses])
    for step in losses.steps:
        assert step["train/loss"] == pytest.approx(step["train/contrastive"] + step["train/masked"], rel=1e-5)
        assert abs(step["train/contrastive"] - step["train/masked"]) > 0.01


@pytest.mark.parametrize("graph", [CGIP, NSG])
def test_validation_tells_losses_retrieval_of_the_whole_set_and_chance(graph):
    model = make(graph)
    logged = fit(model, batches=3).callback_metrics
    assert logged["val/chance_R@1"] == pytest.approx(1 / 12) and logged["val/chance_R@5"] == pytest.approx(5 / 12)
    image, graph = (torch.cat(x) for x in zip(*model.validated))
    assert len(image) == 12
    assert logged["val/image_to_graph_R@1"] == (image @ graph.T).argmax(1).eq(torch.arange(12)).float().mean()
    assert logged["val/graph_to_image_R@1"] == (image @ graph.T).argmax(0).eq(torch.arange(12)).float().mean()
    assert {"val/loss", "val/contrastive", "val/masked", "val/masked_of_mean", "train/scale"} <= logged.keys()


def test_saying_the_mean_costs_what_is_called_of_mean():
    model, batch = make(), demo()
    patches = model.image_features(batch.image)[1]
    said = patches.mean(0, keepdim=True).expand_as(patches)
    assert model.losses(batch).of_mean.item() == pytest.approx(mse_loss(said, patches).item(), rel=1e-4)


def test_a_decoder_that_adds_nothing_is_right_about_an_image_without_a_cover():
    model = make(mask_probability=0.0)
    for layer in (model.decoder.attn1.to_out[0], model.decoder.attn2.to_out[0], model.decoder.ff.net[2]):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    assert model.losses(demo()).masked == 0


def test_the_graph_embedding_is_the_mean_of_real_tokens():
    model, graph = make(NSG), encode([SceneGraph(("circle",), (LEFT,))], VOCAB)
    cond = model.cond_stage_model(graph)
    assert cond.mask.sum() == 3
    torch.testing.assert_close(model.graph_embedding(cond)[0], model.to_image_space(cond.tokens[0, :3].mean(0)))


def test_a_projection_stands_between_only_where_the_encoder_has_no_embedding_of_the_right_size():
    nsg = NSG | {"params": NSG["params"] | {"dim": VIT["embed_dim"]}}
    smaller = CGIP | {"params": CGIP["params"] | {"embed_dim": 8}}
    assert ["projection" in make(graph).parts() for graph in (CGIP, nsg, smaller)] == [False, True, True]


def test_a_seed_decides_how_a_trained_image_tower_begins():
    first, again = (GraphImagePretraining(CGIP, IMAGE, train_image=True).visual.proj for _ in range(2))
    assert not torch.equal(first, again)


# What trains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [CGIP, NSG])
@pytest.mark.parametrize("train_image", [False, True])
def test_what_is_trained_has_a_gradient_and_what_is_frozen_has_none(graph, train_image):
    model = make(graph, train_image=train_image)
    outcome = model.losses(demo())
    (outcome.contrastive + outcome.masked).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (train_image or not name.startswith("image_model.")), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_the_image_tower_is_not_its_own_teacher():
    model = make(train_image=True)
    model.losses(demo()).masked.backward()
    assert all(p.grad is None for p in model.image_model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.cond_stage_model.parameters())


def test_the_decoder_that_is_trained_is_the_same_one_in_every_epoch():
    model = make()
    decoder, before = model.decoder, [p.detach().clone() for p in model.decoder.parameters()]

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, model):
            trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
            assert model.decoder is decoder and trained >= {id(p) for p in decoder.parameters()}

    fit(model, epochs=2, callbacks=[Watch()])
    assert all(not torch.equal(p, old) for p, old in zip(decoder.parameters(), before))


def test_the_image_tower_sees_what_clip_was_trained_on():
    model, image = make(), demo().image
    clip = CLIPGlobalEncoder(VIT, normalize=False, init="random")  # held against open_clip's own pipeline elsewhere
    clip.visual.load_state_dict(model.visual.state_dict())
    torch.testing.assert_close(model.image_features(image)[0], clip(image))


def test_no_hooks_are_left_behind():
    model = make()
    fit(model, epochs=2)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def test_the_scale_begins_at_one_over_007_and_stays_below_100():
    model = make()
    assert model.scale.item() == pytest.approx(1 / 0.07)
    model.logit_scale.data.fill_(8.0)
    model.on_train_batch_end()
    assert model.scale.item() == pytest.approx(100)


def test_matrices_decay_and_vectors_do_not():
    model = make()
    optimizer = fit(model).optimizers[0]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert decay.pop(id(parameter)) == (0.2 if parameter.ndim >= 2 else 0), name
    assert not decay and all(group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)


def test_the_learning_rate_rises_evenly_and_falls_as_a_cosine():
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"] / 5e-4)

    fit(make(warmup_steps=4), epochs=4, batches=2, callbacks=[Watch()])  # as it is after each of 8 steps
    down = [0.5 + 0.5 * math.cos(math.pi * step / 4) for step in range(5)]
    assert rates == pytest.approx([0.5, 0.75, 1.0, *down], abs=1e-6)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    """A trained model and its checkpoint."""
    model = make()
    model.config, model.vocab = {"model": "here"}, VOCAB
    trainer = fit(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return model, tmp_path / "last.ckpt"


def test_a_checkpoint_holds_what_is_trained_the_config_and_the_vocabulary(checkpoint):
    model, path = checkpoint
    saved = torch.load(path, weights_only=True)
    assert saved["state_dict"].keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("image_model") for name in saved["state_dict"])
    assert saved["config"] == {"model": "here"} and tuple(saved["vocab"]["object_idx_to_name"]) == VOCAB.objects


def test_the_second_stage_takes_the_graph_encoder_out_of_the_first_ones_checkpoint(checkpoint):
    model, path = checkpoint
    graph = demo().graph
    encoder = CGIPModel(**CGIP["params"], ckpt_path=path)
    assert encoder.weights_from == str(path)
    assert torch.equal(encoder(graph).tokens, model.cond_stage_model(graph).tokens)


def test_a_run_goes_on_with_the_frozen_tower_that_it_had(checkpoint):
    model, path = checkpoint
    torch.manual_seed(99)
    again = GraphImagePretraining(CGIP, image_config=IMAGE, decoder_heads=2, decoder_dim_head=16)
    saved = torch.load(path, weights_only=True)
    again.on_load_checkpoint(saved)
    again.load_state_dict(saved["state_dict"], strict=again.strict_loading)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_checkpoint_that_trained_other_parts_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="other parts than this config"):
        make(NSG).on_load_checkpoint(torch.load(checkpoint[1], weights_only=True))


def encoder_with_resnet():
    encoder = CLIPGlobalEncoder(VIT, init="random")
    encoder.visual = image_tower(dict(embed_dim=16, image_size=32, layers=[1, 1, 1, 1], width=8))
    return encoder


def test_an_image_tower_without_patches_is_refused():
    with pytest.raises(ValueError, match="ModifiedResNet; take a ViT"):
        make(image_config={"target": f"{__name__}.encoder_with_resnet"})


def test_pictures_are_inputs_and_the_same_under_covers():
    torch.manual_seed(0)
    batch, pictures = demo(), make(mask_probability=1.0).log_images(demo(), n=4)
    assert torch.equal(pictures["inputs"], batch.image[:4]) and pictures["masked"].shape == (4, 3, 32, 32)
    changed = (pictures["masked"] != pictures["inputs"]).any(1)
    assert 0.05 < changed.float().mean() < 0.9 and (pictures["masked"].permute(1, 0, 2, 3)[:, changed] == MASK_VALUE).all()


@pytest.mark.parametrize("name", ["vg", "coco"])
def test_the_published_sizes_come_of_the_configs(name, request):
    config = OmegaConf.load(request.config.rootpath / "configs" / f"pretrain_{name}.yaml")
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


def one_of_two(rank, folder):
    """A process's loss, and the mean of both processes' gradients, as DistributedDataParallel takes it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = make(mask_probability=1.0)
    outcome = model.losses(demo(range(3 * rank, 3 * rank + 3)))  # the first or the second half of demo()
    (outcome.contrastive + outcome.masked).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            distributed.all_reduce(parameter.grad)
            gradients[name] = parameter.grad / 2
    torch.save({"contrastive": outcome.contrastive.detach(), "gradients": gradients}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_loss_and_the_gradients_of_one_with_the_joined_batch(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    model = make(mask_probability=1.0)
    outcome = model.losses(demo())
    (outcome.contrastive + outcome.masked).backward()
    for rank in (0, 1):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(theirs["contrastive"], outcome.contrastive.detach(), rtol=1e-5, atol=0)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(theirs["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_tower_that_is_to_know_styles_tells_images_by_their_references():
    model, batch = make(train_image=True, train_style=True), demo(reference=True)
    outcome = model.losses(batch)
    seen, shown = (model.to_style(model.image_features(x)[0]) for x in (batch.image, batch.reference))
    similar = torch.nn.functional.cosine_similarity(seen[:, None], shown[None], dim=-1) * model.scale
    own = torch.arange(6)
    expected = (torch.nn.functional.cross_entropy(similar, own) + torch.nn.functional.cross_entropy(similar.T, own)) / 2
    assert outcome.style.item() == pytest.approx(expected.item(), rel=1e-4)
    outcome.style.backward()
    assert model.visual.conv1.weight.grad.abs().sum() > 0 and model.to_content.weight.grad is None


def test_without_styles_the_embedding_meets_the_graph_as_it_is():
    model, batch = make(), demo()
    outcome = model.losses(batch)
    assert outcome.style == 0
    assert torch.allclose(outcome.image, torch.nn.functional.normalize(model.image_features(batch.image)[0], dim=-1))

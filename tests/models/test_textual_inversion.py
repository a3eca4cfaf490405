"""Textual inversion against a short loop written from the paper on diffusers' U-Net and scheduler and transformers' text model."""

import pytest
import torch
from personal_models import batch_of, networks, personalization, pictures, save, write_pictures
from torch.nn import functional as F

from ldm.graph.text_tokens import END, START, word_ids

STEPS, RATE = 10, 5e-3


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inversion")
    parts = networks()
    captions = ["a photo of <my-cat>", "a painting of a <my-cat> on a sofa"]
    return parts, save(folder / "model", parts), write_pictures(folder / "cat", captions)


def reference_losses(parts, batches, draws, decay: float) -> list[float]:
    """Gal et al. 2208.01618, eq. 2: only the new row of the embedding is optimised, through the frozen text encoder and U-Net."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    unet, vae, text = parts
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    table = text.get_input_embeddings()
    vector = table.weight[word_ids("cat")[0]].clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([vector], lr=RATE, weight_decay=decay)
    losses = []
    for batch, (t, noise) in zip(batches, draws):
        ids = torch.full((len(batch.texts), 77), END)
        for row, caption in enumerate(batch.texts):
            tokens = [-1 if word == "<my-cat>" else word_ids(word)[0] for word in caption.split()]
            ids[row, : len(tokens) + 1] = torch.tensor([START, *tokens])
        embedded = torch.where((ids == -1)[..., None], vector, table.weight[ids.clamp(min=0)])
        hook = table.register_forward_hook(lambda module, args, output, embedded=embedded: embedded)
        context = text(ids.clamp(min=0)).last_hidden_state
        hook.remove()
        latents = vae.encode(batch.image).latent_dist.mode() * 0.18215
        prediction = unet(scheduler.add_noise(latents, noise, t), t, context).sample
        loss = F.mse_loss(prediction, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("decay", [0.01, pytest.param(0.0, marks=pytest.mark.slow)])
def test_ten_steps_have_the_losses_of_a_reference_loop_on_the_same_noise_and_timesteps(case, decay):
    parts, folder, cat = case
    model = personalization(folder, words_decay=decay, warmup_steps=0).train()
    dataset = pictures(cat, seed=3)
    batches = [batch_of(dataset, range(step, step + 2)) for step in range(STEPS)]
    draws = [model.draw(batch.seeds, (2, 4, 8, 8))[:2] for batch in batches]
    expected = reference_losses(parts, batches, draws, decay)
    (vectors,) = model.groups()["words"]
    optimizer = torch.optim.AdamW([vectors], lr=RATE, weight_decay=model.words_decay, fused=True)
    losses = []
    for batch in batches:
        loss = model.losses(batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-4)
    first = personalization(folder).losses(batches[-1])[0].mean()
    assert abs(losses[-1] - float(first)) > 1e-4 * losses[-1], (
        "the training had no effect, so that the test could not fail"
    )

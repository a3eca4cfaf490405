"""Runs of trainer.py that learn a word: LDM's flags, class pictures, files, exact resume, and two processes."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from paths import ROOT
from personal_models import PICTURES, config, personalization, write_pictures
from safetensors.torch import load_file

import trainer

CALLBACKS = {
    "class_pictures": {"target": "ldm.training.personalization.ClassPictures", "params": {"steps": 2}},
    "learned_files": {"target": "ldm.training.personalization.LearnedFiles"},
    "image_logger": None,
}
LORA = [{"part": "unet", "rank": 2}, {"part": "text", "rank": 2}, {"part": "unet", "targets": ["conv1"], "rank": 2}]


@pytest.fixture
def run(tmp_path, capsys):
    """run(*flags, model={}, data={}) -> (exit code, log folder or None, printed)."""
    write_pictures(tmp_path / "cat")

    def run(*flags, model=None, data=None, gpus="cpu", base=True):
        data = {"image_size": PICTURES, "word": "${model.params.words[0].word}", "repeats": 4, **(data or {})}
        values = {
            "model": {**config(None, cosine=False, **(model or {})), "base_learning_rate": 0.01},
            "data": {
                "target": "ldm.data.datamodule.DataModuleFromConfig",
                "params": {
                    "batch_size": 2,
                    "num_workers": 0,
                    "train": {"target": "ldm.data.personalized.Personalized", "params": data},
                },
            },
            "lightning": {"callbacks": copy.deepcopy(CALLBACKS), "trainer": {"progress_bar_refresh_rate": 0}},
        }
        path = tmp_path / "words.yaml"
        path.write_text(yaml.safe_dump(values))
        before = set((tmp_path / "logs").glob("*"))
        words = ["--base", str(path)] if base else []
        words += ["--data_root", str(tmp_path / "cat")] if base else []
        code = trainer.main([*words, "-t", "--gpus", gpus, "--logdir", str(tmp_path / "logs"), *map(str, flags)])
        new = set((tmp_path / "logs").glob("*")) - before
        return code, new.pop() if new else None, capsys.readouterr()

    return run


def trained(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_word_is_learned_by_the_flags_of_ldm(run):
    flags = ("--init_word", "dog", "--placeholder_string", "<Rex>", "--max_steps", 2)
    code, folder, printed = run(*flags)
    assert code == 0, printed.err
    words = load_file(folder / "learned" / "learned_embeds.safetensors")
    saved = trained(folder)
    assert list(words) == ["<rex>"] and words["<rex>"].shape == (1, 32)
    assert torch.equal(words["<rex>"], saved["state_dict"]["text_stage_model.learned.vectors"])
    assert saved["config"]["model"]["params"]["words"] == [{"word": "<rex>", "init": "dog", "vectors": 1}]
    state = saved["optimizer_states"][0]["state"]
    assert [value["exp_avg"].shape for value in state.values()] == [(1, 32)], (
        "only the word's vectors have optimizer state"
    )


def test_training_goes_on_from_a_file_of_words(run):
    _, folder, _ = run("--max_steps", 1)
    file = folder / "learned" / "learned_embeds.safetensors"
    code, second, printed = run("--max_steps", 1, "--embedding_manager_ckpt", file)
    assert code == 0, printed.err
    assert not torch.equal(load_file(file)["<my-cat>"], load_file(second / "learned" / file.name)["<my-cat>"])
    distance = load_file(file)["<my-cat>"] - load_file(second / "learned" / file.name)["<my-cat>"]
    assert distance.abs().max() < 0.011, "one step of AdamW moves by the learning rate"


@pytest.mark.slow
def test_class_pictures_are_made_once_and_their_loss_is_added(run, tmp_path):
    data = {"class_dir": str(tmp_path / "class"), "class_prompt": "a photo of a cat", "class_images": 2}
    assert run("--max_steps", 1, data=data, model={"lora": LORA})[0] == 0
    files = sorted((tmp_path / "class" / "images").glob("*.png"))
    times = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 2
    assert run("--max_steps", 1, data=data, model={"lora": LORA})[0] == 0
    assert times == [file.stat().st_mtime_ns for file in files]
    code, _, printed = run("--max_steps", 1, data={**data, "class_prompt": "a dog"}, model={"lora": LORA})
    assert code == 2 and "choose another class_dir" in printed.err


@pytest.mark.slow
def test_a_resumed_run_gives_the_bits_of_an_uninterrupted_one(run):
    model = {"lora": LORA, "progressive_steps": 1, "words": [{"word": "<my-cat>", "init": "cat", "vectors": 3}]}
    _, whole, printed = run("--max_steps", 4, model=model)
    _, half, _ = run("--max_steps", 2, model=model)
    assert whole and half, printed.err
    code, _, printed = run("--max_steps", 4, "--resume", half, base=False)
    assert code == 0, printed.err
    first, second = trained(whole)["state_dict"], trained(half)["state_dict"]
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_pivotal_tuning_trains_words_first_and_the_rest_after_them(run):
    model = {"lora": LORA, "words_steps": 1, "rates": {"words": 0.1, "unet": 0.01, "text": 0.01}}
    _, first, printed = run("--max_steps", 1, model=model)
    _, second, _ = run("--max_steps", 2, model=model)
    states = [trained(folder)["state_dict"] for folder in (first, second)]
    words = [state["text_stage_model.learned.vectors"] for state in states]
    ups = [torch.cat([v.flatten() for name, v in state.items() if name.endswith("lora_B")]) for state in states]
    assert torch.equal(*words) and not ups[0].any() and ups[1].abs().max() == pytest.approx(0.01, rel=0.1), printed.err


@pytest.mark.slow
def test_two_processes_and_accumulated_batches_equal_one_process(run, tmp_path):
    """What is trained changes alike: to 1 % of the change, since AdamW divides the rounding errors of small gradients by them."""
    model, data = {"lora": LORA}, {"repeats": 2}
    _, one, _ = run("--max_steps", 2, "data.params.batch_size=4", model=model, data=data)
    _, accumulated, _ = run("--max_steps", 2, "--accumulate_grad_batches", 2, model=model, data=data)
    words = [
        "--base",
        tmp_path / "words.yaml",
        "--data_root",
        tmp_path / "cat",
        "-t",
        "--gpus",
        "cpu:2",
        "--max_steps",
        2,
    ]
    command = [sys.executable, "trainer.py", *map(str, words), "--logdir", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    (two,) = (tmp_path / "two").glob("*")
    start = personalization().learned[0].initial
    changes = {}
    for folder in (one, accumulated, two):
        state = trained(folder)["state_dict"]
        changes[folder] = {name: value for name, value in state.items() if name.endswith("lora_B")}
        changes[folder]["words"] = state["text_stage_model.learned.vectors"] - start
    for other in (accumulated, two):
        for name, change in changes[one].items():
            assert change.norm() > 0
            assert (changes[other][name] - change).norm() < 0.01 * change.norm(), name


@pytest.mark.parametrize(
    "captions, words",
    [
        (["a photo of <your-cat>"], "uses '<your-cat>'"),
        (["a photo of a cat"], "which no caption uses"),
    ],
)
def test_captions_and_taught_words_must_agree(run, tmp_path, captions, words):
    lines = [json.dumps({"file_name": f"{n}.png", "text": text}) for n, text in enumerate(captions)]
    (tmp_path / "cat" / "metadata.jsonl").write_text("\n".join(lines))
    code, _, printed = run("--max_steps", 1)
    assert code == 2 and words in printed.err and "Traceback" not in printed.err


def test_a_caption_that_is_too_long_is_said_with_what_falls_off(run, tmp_path):
    text = "a photo of <my-cat> " + "very " * 80 + "green"
    (tmp_path / "cat" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": text}))
    code, _, printed = run("--max_steps", 1)
    assert (
        code == 0
        and "0.png: the caption is longer than 77 tokens; lost: very" in printed.err
        and "green" in printed.err
    )

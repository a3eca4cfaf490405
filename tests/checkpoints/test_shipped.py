"""The weights that ship with the project: verified by checksum, and used where no other weights are named."""

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_model

from ldm.checkpoints import shipped
from ldm.checkpoints.loading import CheckpointError
from ldm.graph.diff import ChangeAttribute, Replace, diff
from ldm.graph.graph_files import read_graphs, write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.models.export import export_adapters
from ldm.models.loading import find_checkpoint, load_model
from ldm.synthetic.checker import check
from ldm.synthetic.worlds import READERS

SET = shipped.FOLDER / shipped.SHIPPED  # relative to the checkout
HOW = {"command": "python trainer.py", "seed": 1, "minutes": 2.0, "cores": 2, "device": "cpu", "measured": {"psnr": 30}}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A separate checkout with adapters of a tiny model; the current folder is another one."""
    folder = tmp_path / "checkout" / SET
    folder.mkdir(parents=True)
    saved = {}
    tiny_model().on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "run.ckpt")
    export_adapters(tmp_path / "run.ckpt", folder / shipped.ADAPTERS)
    (folder / "vq.safetensors").write_bytes(b"weights")
    for name in (shipped.ADAPTERS, "vq.safetensors"):
        shipped.record_in_manifest(folder / name, **HOW)
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "checkout")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "checkout"


def test_every_world_of_synthetic_scenes_but_clevr_has_weights_that_ship():
    assert shipped.OF_SCENES.keys() == READERS.keys() - {"clevr"}  # whose adapters and checker users train


def test_the_shipped_adapters_are_the_default_and_a_message_names_them(checkout, caplog):
    caplog.set_level(logging.INFO, "ldm")
    path = find_checkpoint()
    assert path == checkout / SET / "adapters.safetensors"
    assert len(caplog.messages) == 1 and str(path) in caplog.messages[0]
    assert load_model(path).config["model"]["target"].endswith("LatentDiffusion")


def test_a_named_run_checkpoint_or_config_is_used_instead(checkout, caplog):
    caplog.set_level(logging.INFO, "ldm")
    (checkout / "checkpoints").mkdir()
    (checkout / "checkpoints" / "last.ckpt").touch()
    assert find_checkpoint(run=str(checkout)) == checkout / "checkpoints" / "last.ckpt"
    assert find_checkpoint(run=str(checkout), ckpt="some.ckpt") == Path("some.ckpt")
    assert find_checkpoint(config="some.yaml") is None
    assert not caplog.messages


def test_a_changed_file_is_refused_by_name(checkout):
    (checkout / SET / "vq.safetensors").write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match="vq.safetensors: .*sha256"):
        find_checkpoint()


@pytest.mark.parametrize("name", ["adapters.safetensors", "vq.safetensors", "MANIFEST.json"])
def test_a_missing_file_is_refused_by_name(checkout, name):
    (checkout / SET / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: .*--ckpt"):
        find_checkpoint()


@pytest.mark.parametrize("text", ["", "[]", '{"vq.safetensors": {"sha256": "0"}}', '{"vq.safetensors": 3}'])
def test_a_broken_manifest_is_refused_by_name(checkout, text):
    (checkout / SET / "MANIFEST.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a manifest"):
        find_checkpoint()


def test_a_file_in_the_current_folder_that_hides_a_shipped_one_is_verified(checkout):
    SET.mkdir(parents=True)
    (SET / "vq.safetensors").write_bytes(b"others")
    with pytest.raises(CheckpointError, match=f"^{SET}/vq.safetensors: .*sha256"):
        find_checkpoint()


def test_a_path_is_looked_up_in_the_current_folder_then_in_the_checkout(checkout, tmp_path):
    (checkout / "both").touch()
    (checkout / "there").touch()
    Path("both").touch()
    assert shipped.find_in_checkout("both") == Path("both")
    assert shipped.find_in_checkout("there") == checkout / "there"
    assert shipped.find_in_checkout("nowhere") == Path("nowhere")
    assert shipped.find_in_checkout(checkout / "there") == checkout / "there"


def test_frozen_parts_are_found_from_any_folder(checkout, tmp_path):
    trained = tiny_model(freeze_unet=False)
    torch.save(
        {f"model.diffusion_model.{name}": value for name, value in trained.unet.state_dict().items()},
        checkout / "unet.ckpt",
    )
    model = tiny_model(init=None, ckpt_path=str(checkout / "unet.ckpt"))
    model.config["model"]["params"]["ckpt_path"] = "unet.ckpt"
    saved = {}
    model.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "run.ckpt")
    loaded = load_model(tmp_path / "run.ckpt")
    assert torch.equal(loaded.unet.time_embed[0].weight, trained.unet.time_embed[0].weight)
    assert loaded.config["model"]["params"]["ckpt_path"] == "unet.ckpt"


def test_an_entry_describes_the_file_and_replaces_an_older_one(checkout):
    folder = checkout / SET
    (folder / "vq.safetensors").write_bytes(b"newer")
    entry = shipped.record_in_manifest(folder / "vq.safetensors", **{**HOW, "seed": 5})
    assert entry.bytes == 5 and entry.seed == 5
    assert entry.sha256 == "804f51f71254c4081e37e7c887073560f4a6fa6cdad202e9ac67e032c43ed1e1"  # sha256sum's
    assert shipped.read_manifest(folder)["vq.safetensors"] == entry
    assert set(shipped.read_manifest(folder)) == {shipped.ADAPTERS, "vq.safetensors"}


def test_the_scripts_use_the_shipped_weights_by_default(checkout, capsys, load_script):
    write_graphs("graph.json", [SceneGraph(("circle",))])
    for name, arguments in (("ddim_invert_edit", []), ("sample", ["--n", "1"])):
        script = load_script(name)
        options = ["--sg", "graph.json", "--steps", "1", "--device", "cpu", "--outdir", name]
        assert script.main([*options, *arguments]) == 0
        assert "adapters.safetensors" in capsys.readouterr().out
    assert json.loads(Path("ddim_invert_edit/record.json").read_text())["checkpoint"].endswith("adapters.safetensors")
    Path("graph.json").write_text(json.dumps({"objects": ["cirle"]}))
    assert script.main(options) == 2
    assert "did you mean 'circle'" in capsys.readouterr().err


# The files of this checkout --------------------------------------------------------------------------------------------

FLAT = shipped.ROOT / shipped.FOLDER / "flat"
MANIFESTS = sorted((shipped.ROOT / shipped.FOLDER).glob(f"*/{shipped.MANIFEST}"))


def test_the_default_set_ships():
    assert shipped.SHIPPED in [path.parent.name for path in MANIFESTS]


@pytest.mark.parametrize("folder", [path.parent for path in MANIFESTS], ids=lambda folder: folder.name)
def test_a_manifest_describes_every_file_of_weights_beside_it(folder):
    manifest = shipped.read_manifest(folder)
    assert set(manifest) == {path.name for path in folder.glob("*.safetensors")}
    for name, entry in manifest.items():
        shipped.verify(folder / name, entry)
        assert (folder / name).stat().st_size == entry.bytes


def test_a_set_is_chosen_by_name():
    assert shipped.shipped_adapters("flat") == FLAT / shipped.ADAPTERS
    with pytest.raises(CheckpointError, match="flta"):
        shipped.shipped_adapters("flta")


@pytest.mark.parametrize("scenes", sorted(shipped.OF_SCENES))
def test_the_set_for_a_world_knows_its_names(scenes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = load_model(shipped.shipped_adapters(shipped.weights_for(scenes)))
    known, drawn = model.vocab, READERS[scenes].vocab
    assert set(known.objects) <= set(drawn.objects) and set(known.predicates) <= set(drawn.predicates)
    assert set(known.attributes) <= set(drawn.attributes)


def test_the_default_set_is_for_scenes_of_no_world():
    assert shipped.weights_for(None) == shipped.weights_for("no such world") == shipped.SHIPPED


def test_the_files_for_flat_shapes_stay_below_12_megabytes():
    assert sum(path.stat().st_size for path in FLAT.iterdir()) <= 12_000_000


def test_the_example_image_shows_its_graph_and_not_the_edited_one():
    (source,), (target,) = (read_graphs(FLAT / name) for name in ("example.json", "edited.json"))
    assert source.image == target.image == "example.png"
    picture = Image.open(FLAT / source.image)
    assert check(source, picture).passed and not check(target, picture).passed
    assert [type(operation) for operation in diff(source, target)] == [ChangeAttribute, Replace]


def test_the_vocabulary_of_the_model_for_flat_shapes_covers_the_example(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = load_model(shipped.shipped_adapters("flat"))
    for name in ("example.json", "edited.json"):
        for graph in read_graphs(FLAT / name):
            graph.validate(model.vocab, name)

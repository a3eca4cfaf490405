from pathlib import Path

import pytest
import torch

from ldm.evaluation.metric_networks import (
    INCEPTION,
    LPIPS,
    EvaluationError,
    find_weights,
    load_inception,
    load_lpips,
    load_networks,
)
from ldm.util.errors import UserError


def save_alexnet_weights(path):
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.alexnet(weights=None)
    torch.save(model.state_dict(), path)
    return model


def test_missing_weights_are_reported_with_their_url_and_folder(tmp_path):
    with pytest.raises(EvaluationError) as caught:
        find_weights(["fid", "is", "lpips"], tmp_path)
    for part in (INCEPTION.file, INCEPTION.url, LPIPS["alex"].file, LPIPS["alex"].url, str(tmp_path), "fid and is"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find_weights(["psnr", "ssim"], tmp_path) == {}


def test_the_inception_weights_are_found_under_either_published_name(tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.touch()
    assert find_weights(["fid"], tmp_path) == {INCEPTION: path}


def test_lpips_gets_torchvisions_weights(tmp_path):
    published = save_alexnet_weights(tmp_path / "a.pth")
    model = load_lpips(tmp_path / "a.pth", "alex")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.net(x).relu5, published.features[:12](x))


def test_weights_other_than_the_published_ones_have_a_remark(tmp_path):
    path = tmp_path / LPIPS["alex"].file
    save_alexnet_weights(path)
    networks = load_networks({LPIPS["alex"]: path})
    assert "published alexnet-owt-7be5be79.pth" in networks.remarks[0]
    assert len(networks.protocol["lpips"]["sha256"]) == 64


def test_inception_gets_the_weights_of_its_file_and_returns_features_and_logits(tmp_path, monkeypatch):
    from torch_fidelity import FeatureExtractorInceptionV3

    with monkeypatch.context() as patch:  # the network with random weights, which the package cannot build by itself
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *arguments, **options: None)
        patch.setattr(torch, "load", lambda *arguments, **options: None)
        random = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    torch.save(random.state_dict(), tmp_path / INCEPTION.file)
    networks = load_networks({INCEPTION: tmp_path / INCEPTION.file})
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        features, logits = networks.inception(images)
        assert torch.equal(features, random(images)[0])
    assert features.shape == (1, 2048) and logits.shape == (1, 1008)
    assert networks.protocol["inception"]["package"].startswith("torch-fidelity ")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for load in (load_inception, lambda path: load_lpips(path, "alex")):
        with pytest.raises(EvaluationError, match="other.pth"):
            load(tmp_path / "other.pth")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("network", [INCEPTION, LPIPS["alex"]])
def test_code_in_a_weights_file_is_not_executed(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": torch.zeros(1), "payload": Payload()}, tmp_path / network.file)
    with pytest.raises(UserError):
        load_networks(find_weights([network.metrics[0]], tmp_path))
    assert not Path("ran").exists()

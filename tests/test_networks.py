"""The standard networks: where their files come from, and that the code which reads them is right, on files
of the same layout."""
import os
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from deeplandscape import files, media, registry
from deeplandscape.registry import find_weights, load_state, WEIGHTS, Weights, weights_path
from deeplandscape.core import InputError
from deeplandscape.metrics.extractors import extractor, LPIPS
from deeplandscape.metrics.distances import clip_features, compare_videos, frechet_distance
from deeplandscape.metrics.similarity import lpips_distance
from deeplandscape.metrics.flow import optical_flow

STANDARD = ("vgg19", "vgg16", "lpips", "inception", "i3d", "raft", "segformer", "resnet152")
here = lambda *names: all(find_weights(name) for name in names)


@pytest.fixture
def own(tmp_path, monkeypatch):
    "A folder of one's own for weights, nothing cached."
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("DEEPLANDSCAPE_CACHE", str(tmp_path / "cache"))
    extractor.cache_clear()
    yield tmp_path
    extractor.cache_clear()


def pictures(n, size, seed=0):
    g = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(n, 3, 8, 8, generator=g), size=(size, size), mode="bicubic").tanh()


# the registry

@pytest.mark.parametrize("name", STANDARD)
def test_each_network_says_where_it_comes_from(name):
    w = WEIGHTS[name]
    assert w.url.startswith("https://") and w.licence and w.about and w.bytes > 5000
    assert w.sha256 is None or len(w.sha256) == 64
    if name != "segformer": assert registry._expected(w)


def test_own_folder_goes_first_and_offline_is_one_sentence(own, monkeypatch):
    monkeypatch.setitem(WEIGHTS, "raft",
                        Weights("raft-01234567.pth", "RAFT", "BSD", "http://127.0.0.1:9/raft.pth", bytes=9))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(own / "hub"))
    assert find_weights("raft") is None
    with pytest.raises(InputError) as error: weights_path("raft")
    assert "raft-01234567.pth could not be fetched" in str(error.value)
    assert "DEEPLANDSCAPE_WEIGHTS" in str(error.value) and "\n" not in str(error.value)
    (own / "raft-01234567.pth").write_bytes(b"mine")
    assert weights_path("raft") == own / "raft-01234567.pth"


def test_the_heads_of_lpips_come_with_torchmetrics():
    path = find_weights("lpips")
    assert path is not None and files.file_sha256(path) == WEIGHTS["lpips"].sha256


class Evil:
    def __reduce__(self): return os.system, ("true",)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_only(tmp_path, zipped):
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pth", _use_new_zipfile_serialization=zipped)
    assert load_state(tmp_path / "good.pth")["w"].tolist() == [1, 1]
    for content in ({"w": torch.ones(2), "x": Evil()}, [1, 2], {}):
        torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError): load_state(tmp_path / "bad.pth")
    with pytest.raises(InputError): load_state(tmp_path / "missing.pth")


# LPIPS

@pytest.fixture
def lpips_file(own):
    torch.manual_seed(0)
    state = {k.replace("trunk", "features"): v
             for k, v in LPIPS().state_dict().items() if k.startswith("trunk")}
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)},
               own / WEIGHTS["vgg16"].file, _use_new_zipfile_serialization=False)
    return state


def test_lpips_equals_torchmetrics(lpips_file):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")._LPIPS(net="vgg",
                                                                               pnet_rand=True, spatial=True)
    theirs.net.load_state_dict({f"slice{k}.{n}": v for k, (first, last) in enumerate([(0, 4), (4, 9), (9, 16),
                                                                                      (16, 23), (23, 30)], 1)
                                for n, v in ((name[9:], v) for name, v in lpips_file.items())
                                if first <= int(n.split(".")[0]) < last})
    x, y = pictures(2, 64), pictures(2, 64, 1)
    ours = extractor("lpips")(x, y)
    torch.testing.assert_close(ours, theirs(x, y), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(lpips_distance(x, y), ours.mean((1, 2, 3)))
    assert not extractor("lpips").standard  # random weights may not call themselves published


def test_lpips_equals_its_package(lpips_file):
    package = pytest.importorskip("lpips")
    theirs = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, spatial=True, verbose=False).eval()
    theirs.load_state_dict(torch.load(find_weights("lpips"), map_location="cpu"), strict=False)
    for k, v in lpips_file.items():
        for part in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3,
                     theirs.net.slice4, theirs.net.slice5):
            if k[9:] in part.state_dict(): part.state_dict()[k[9:]].copy_(v)
    x, y = pictures(1, 64), pictures(1, 64, 1)
    torch.testing.assert_close(extractor("lpips")(x, y), theirs(x, y), atol=1e-5, rtol=1e-3)


# I3D

@pytest.fixture
def i3d_file(own):
    net = torch.jit.ScriptModule()
    net.define("""
def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
    assert x.size(1) == 3
    if resize:
        x = torch.nn.functional.interpolate(x, size=[x.size(2), 8, 8], mode="trilinear")
    if rescale:
        x = x * 2 / 255 - 1
    return torch.cat([x.mean([2, 3, 4]), (x[:, :, 1:] - x[:, :, :-1]).abs().mean([2, 3, 4])], 1)
""")
    net.save(str(own / WEIGHTS["i3d"].file))
    return own / WEIGHTS["i3d"].file


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_fvd_is_frechet_over_the_features_of_the_file(i3d_file):
    clips = [torch.stack([pictures(12, 16, 10 * k + s) for k in range(5)]) for s in (0, 5)]
    by_hand = []
    for c in clips:
        small = F.interpolate(((c + 1) * 127.5).round().transpose(1, 2),
                              size=(12, 8, 8), mode="trilinear") * 2 / 255 - 1
        by_hand.append(torch.cat([small.mean((2, 3, 4)),
                                  (small[:, :, 1:] - small[:, :, :-1]).abs().mean((2, 3, 4))], 1))
    for by in ("i3d", str(i3d_file)):
        torch.testing.assert_close(clip_features(clips[0], by, frames=12).float(),
                                   by_hand[0], atol=1e-4, rtol=1e-3)
        m = compare_videos(*clips, by, frames=12, resamples=0)
        assert abs(m.value - frechet_distance(*by_hand)) < 1e-4
        assert m.protocol["metric"].startswith("Frechet video distance (torchscript")
        assert not m.protocol["paper_comparable"]


@pytest.mark.skipif(not here("i3d"), reason="the weights of I3D are not here")
def test_fvd_of_black_against_white():
    black, white = torch.full((8, 30, 3, 64, 64), -1.0), torch.ones(8, 30, 3, 64, 64)
    m = compare_videos(black, white, "i3d", frames=30, resamples=0)
    assert m.protocol["metric"] == "FVD" and abs(m.value - 151.26) < 1.0  # published for this very file


# RAFT

def test_raft_by_file(own):
    from torchvision.models.optical_flow import raft_large
    torch.manual_seed(0)
    net = raft_large().eval()
    torch.save(net.state_dict(), own / WEIGHTS["raft"].file)
    x = pictures(2, 128)
    with torch.no_grad(): want = net(x[:1], x[1:])[-1]
    torch.testing.assert_close(extractor("raft")(x[:1], x[1:]), want)
    torch.testing.assert_close(optical_flow(x, 128, "raft"), want)


# Inception

@pytest.fixture
def inception_file(own):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    torch.save({"a": torch.zeros(1)}, own / "empty.pth")
    with mock.patch.object(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None):
        net = module.FeatureExtractorInceptionV3("x", ["2048"],
                                                 feature_extractor_weights_path=str(own / "empty.pth"))
    torch.save(net.state_dict(), own / WEIGHTS["inception"].file)
    return net.eval()


def test_inception_by_file(inception_file):
    x = pictures(2, 64)
    with torch.no_grad(): want = inception_file(media.to_uint8(x))[0].double()
    got = extractor("inception")(x)
    assert got.shape == (2, 2048) and not extractor("inception").standard
    torch.testing.assert_close(got, want)


def test_another_file_is_no_inception(own):
    pytest.importorskip("torch_fidelity")
    torch.save({"a": torch.zeros(1)}, own / WEIGHTS["inception"].file)
    with pytest.raises(InputError, match="does not fit"): extractor("inception")


def test_without_the_package_it_says_how_to_get_it(own):
    missing = {"torch_fidelity": None, "torch_fidelity.feature_extractor_inceptionv3": None}
    with mock.patch.dict("sys.modules", missing), pytest.raises(InputError, match="pip install"):
        extractor("inception")


# ResNet

def test_resnet_by_file(own, monkeypatch):
    "The reader of ResNet-152, on a small sister of the same layout."
    import torchvision
    from deeplandscape.model.encoder import ResNetFeatures
    torch.manual_seed(0)
    net = torchvision.models.resnet18()
    torch.save(net.state_dict(), own / "resnet18.pth")
    monkeypatch.setitem(WEIGHTS, "resnet18", Weights("resnet18.pth", "ResNet-18",
                                                     "BSD-3-Clause", "https://nowhere.invalid/resnet18.pth"))
    features = ResNetFeatures("resnet18", pretrained=True)
    for part in ("conv1", "layer4"):
        for a, b in zip(getattr(features, part).parameters(), getattr(net, part).parameters()):
            assert torch.equal(a, b)


# SegFormer

def test_segformer_by_file(own):
    transformers = pytest.importorskip("transformers")
    from deeplandscape.perception.masks import ADE_NAMES, segformer_classes, segmenter
    torch.manual_seed(0)
    config = transformers.SegformerConfig(depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512],
                                          decoder_hidden_size=768, num_labels=150)
    net = transformers.SegformerForSemanticSegmentation(config).eval()
    torch.save(net.state_dict(), own / WEIGHTS["segformer"].file)
    x = pictures(1, 96)
    p = segformer_classes()(x)
    segmenter.cache_clear()
    three = segmenter("segformer")(x)
    assert p.shape == (1, 150, 96, 96) and len(ADE_NAMES) == 150
    torch.testing.assert_close(three[:, 1], p[:, 2])                                        # the sky
    # all that is water
    torch.testing.assert_close(three[:, 2], p[:, [21, 26, 60, 104, 109, 113, 128]].sum(1))
    torch.save({"a": torch.zeros(1)}, own / WEIGHTS["segformer"].file)
    with pytest.raises(InputError, match="SegFormer"): segformer_classes()


def test_segformer_says_what_it_needs(own):
    from deeplandscape.perception.masks import segformer_classes
    with mock.patch.dict("sys.modules", {"transformers": None}), pytest.raises(InputError, match="segformer"):
        segformer_classes()


# VGG19

def test_vgg19_by_a_file_of_the_old_format(own):
    from deeplandscape.perception.network import perceptual_loss, VGG19Features
    state = {k.replace("layers", "features"): v for k, v in VGG19Features().state_dict().items()}
    torch.save(state, own / WEIGHTS["vgg19"].file, _use_new_zipfile_serialization=False)
    perceptual_loss.cache_clear()
    loss = perceptual_loss("vgg19")
    assert torch.equal(loss.features.layers[0].weight, state["features.0.weight"])
    perceptual_loss.cache_clear()

"""The embedded network, the perceptual losses, and what they learn from."""
import math

import pytest
import torch
import torch.nn.functional as F

from deeplandscape import files as files_module
from deeplandscape.core import InputError
from deeplandscape.media import save_image
from deeplandscape.perception.network import (
    fold_normalisation, gather_classes, load_perception, Perception, perceptual_loss, segmenter,
    VGG19Features)
from deeplandscape.perception.training import (
    evaluate_perception, PerceptionTraining, photo_loss, train_perception)
from deeplandscape.perception.examples import (
    draw_notes, is_test_photo, label_sky, PhotoExamples, scene_examples)


@pytest.fixture(scope="module")
def net(): return load_perception()


@pytest.fixture(scope="module")
def scenes(): return scene_examples(4, 64, torch.Generator().manual_seed(0), "test")


def smooth(x, k): return F.interpolate(F.avg_pool2d(x, k), size=x.shape[-2:], mode="bilinear")


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (33, 97), (256, 128), (20, 700)])
def test_any_size(net, size):
    p = net.segment(torch.rand(2, 3, *size) * 2 - 1)
    assert p.shape == (2, 3, *size) and p.min() >= 0
    torch.testing.assert_close(p.sum(1), torch.ones(2, *size))


def test_features_have_six_scales(net):
    maps = net.features(torch.zeros(2, 3, 64, 96))
    assert [m.shape[-2:] for m in maps] == [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert net.pooled(torch.zeros(2, 3, 64, 64)).shape == (2, sum(net.config.channels[-2:]))


def test_deterministic_and_independent_of_the_batch(net, scenes):
    images, _ = scenes
    assert torch.equal(net.segment(images), net.segment(images))
    torch.testing.assert_close(net.segment(images)[2:3], net.segment(images[2:3]), atol=1e-5, rtol=1e-4)


def test_shipped_weights_are_good_and_small(net):
    scores = evaluate_perception(net, scenes=64)
    assert scores["iou_sky"] > 0.9 and scores["iou_static"] > 0.8 and scores["iou_water"] > 0.65
    path = files_module.weights_path("perception")
    assert path.stat().st_size < 3_000_000 and path.with_suffix(".md").exists()


def test_folding_keeps_the_function():
    net = Perception().train()
    for _ in range(3): net.decode(net.encode(torch.randn(4, 3, 32, 32)))
    x = torch.rand(2, 3, 48, 40) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(fold_normalisation(net.eval()).segment(x), net.segment(x), atol=1e-5, rtol=1e-4)


def test_embedded_loss_is_zero_for_equal_and_grows(scenes):
    images, _ = scenes
    loss, noise = perceptual_loss("embedded"), torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert loss(images, images) == 0
    blurred = [float(loss(smooth(images, k), images)) for k in (1, 2, 4, 8)]
    noisy = [float(loss(images + s * noise, images)) for s in (0, 0.03, 0.1, 0.3)]
    assert blurred == sorted(blurred) and noisy == sorted(noisy) and blurred[1] > 0.05 and noisy[1] > 0.05
    fx, fy = loss.features(images), loss.features(smooth(images, 4))
    torch.testing.assert_close(loss.distance(fx, fy).mean(), loss(images, smooth(images, 4)))
    assert loss.distance(fx, fy).shape == (len(images),)


def test_gradients_reach_the_picture_and_not_the_network(net, scenes):
    x = scenes[0].clone().requires_grad_()
    loss = perceptual_loss("embedded")
    loss(x, scenes[0].roll(1, 0)).backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    owner = loss.features.__self__
    assert not any(p.requires_grad or p.grad is not None for p in owner.parameters())


def test_unknown_names():
    with pytest.raises(InputError, match="vgg16"): perceptual_loss("vgg16")
    with pytest.raises(InputError, match="deeplab"): segmenter("deeplab")


@pytest.fixture
def vgg_folder(tmp_path, monkeypatch):
    "A file of torchvision's layout with random values, classifier left small: the features alone are read."
    torch.manual_seed(0)
    state = {k.replace("layers", "features"): v for k, v in VGG19Features().state_dict().items()}
    extra = {f"features.{k}.{n}": torch.zeros(1) for k in (30, 32, 34) for n in ("weight", "bias")}
    torch.save(state | extra | {"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg19-dcbb9e9d.pth")
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(tmp_path))
    perceptual_loss.cache_clear()
    yield tmp_path, state
    perceptual_loss.cache_clear()


def test_vgg19_is_the_released_loss(vgg_folder, scenes):
    _, state = vgg_folder
    loss, (x, y) = perceptual_loss("vgg19"), (scenes[0][:1], scenes[0][1:2])

    def by_hand(image):
        h, maps = ((image + 1) / 2 - torch.tensor([.485, .456, .406]).view(1, 3, 1, 1)) / torch.tensor([.229, .224, .225]).view(1, 3, 1, 1), []
        for block in ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28,)):
            for k in block:
                h = F.relu(F.conv2d(h, state[f"features.{k}.weight"], state[f"features.{k}.bias"], padding=1))
                maps.append(h)
            h = F.avg_pool2d(h, 2)
        return maps
    a, b = by_hand(x), by_hand(y)
    assert len(a) == 13
    torch.testing.assert_close(loss(x, y), sum((p - q).abs().mean() for p, q in zip(a, b)), rtol=1e-4, atol=1e-6)
    assert loss(x, x) == 0 and loss.name == "vgg19"


def test_vgg19_refuses_other_files(vgg_folder):
    folder, state = vgg_folder
    torch.save({k: v for k, v in state.items() if "28" not in k}, folder / "vgg19-dcbb9e9d.pth")
    with pytest.raises(InputError, match="VGG19"): perceptual_loss("vgg19")
    (folder / "vgg19-dcbb9e9d.pth").write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(InputError, match="VGG19"): perceptual_loss("vgg19")


def test_ade_names():
    names = ["wall", "sky", "tree", "water", "sea", "river", "lake", "waterfall", "boat", "skyscraper"]
    p = torch.rand(2, 10, 4, 5).softmax(1)
    q = gather_classes(p, names)
    torch.testing.assert_close(q.sum(1), torch.ones(2, 4, 5))
    torch.testing.assert_close(q[:, 1], p[:, 1])
    torch.testing.assert_close(q[:, 2], p[:, 3:8].sum(1))


def test_notes_and_losses():
    t = draw_notes([[[0, 50], [100, 50], [100, 100], [0, 100]]], side=100)
    assert t[0, :45].max() == 0 and t[0, 56:].min() == 1 and t[0, 50, 50] == 0.5
    scores = torch.zeros(1, 3, 8, 8, requires_grad=True)
    unknown = torch.full((1, 1, 8, 8), 0.5)
    assert photo_loss(scores, torch.ones(1, 1, 8, 8), unknown, torch.tensor([False])) == 0
    torch.testing.assert_close(photo_loss(scores, unknown, torch.ones_like(unknown), torch.tensor([True])), torch.tensor(math.log(3.0)))


def test_held_out_photographs_are_never_trained_on(tmp_path, scenes):
    for k in range(24): save_image(scenes[0][k % 4], tmp_path / f"{k}.png")
    files = sorted(tmp_path.glob("*.png"))
    split = {s: PhotoExamples(files, split=s).names for s in ("train", "test")}
    assert set(split["train"]) | set(split["test"]) == {f.stem for f in files} and not set(split["train"]) & set(split["test"])
    assert split["test"] == [f.stem for f in files if is_test_photo(f)]


def test_training_goes_on_bit_for_bit(tmp_path, scenes):
    for k in range(8): save_image(scenes[0][k % 4], tmp_path / "photos" / f"{k}.png")
    files = sorted((tmp_path / "photos").glob("*.png"))
    label_sky(files[:4], lambda x: (x[:, 2:] > x[:, :1]).float(), tmp_path / "sky")
    photos = PhotoExamples(files, tmp_path / "sky", {files[0].stem: [], files[1].stem: [[[0, 60], [100, 60], [100, 100]]]})
    settings = PerceptionTraining(steps=4, scenes=1, photos=3, sizes=(32, 48), every=2)
    teacher = lambda x: [F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)]
    stop = lambda step, parts: exec("raise KeyboardInterrupt") if step == 2 else None
    whole = train_perception(tmp_path / "a", photos, teacher, settings, "cpu")
    with pytest.raises(KeyboardInterrupt): train_perception(tmp_path / "b", photos, teacher, settings, "cpu", log=stop)
    parts = train_perception(tmp_path / "b", photos, teacher, settings, "cpu")
    a, b = load_perception(whole), load_perception(parts)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert a.meta["training"]["with_sky"] == int(photos.has_sky.sum())


def test_teachers_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no teacher"): train_perception(tmp_path, teacher=tmp_path / "x.pt", device="cpu")
    (tmp_path / "x.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no TorchScript"): train_perception(tmp_path, teacher=tmp_path / "x.pt", device="cpu")

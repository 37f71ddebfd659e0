"""The embedded network, the perceptual losses, and what they learn from."""
import math

import pytest
import torch
import torch.nn.functional as F

from deeplandscape import registry
from deeplandscape.core import InputError
from deeplandscape.files import load_tensors
from deeplandscape.media import save_image
from deeplandscape.data.sources import is_held_out
from deeplandscape.perception.network import (
    fold_normalisation, load_perception, Perception, perceptual_loss, VGG19Features)
from deeplandscape.perception.training import (
    evaluate_perception, PerceptionTraining, photo_loss, train_perception)
from deeplandscape.perception.examples import (
    draw_notes, draw_photos, label_sky, PhotoExamples, scene_examples)
from deeplandscape.perception.masks import (gather_classes, load_segmenter, MASK_TRAINING,
                                            mask_doubts, masks_by_kind, measure_masks, Segmenter, segmenter,
                                            SegmenterConfig)


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
    torch.testing.assert_close(net.segment(images)[2:3], net.segment(images[2:3]), atol=1e-4, rtol=1e-3)


def test_shipped_weights_are_good_and_small(net):
    scores = evaluate_perception(net, scenes=64)
    assert scores["iou_sky"] > 0.9 and scores["iou_static"] > 0.8 and scores["iou_water"] > 0.65
    path = registry.weights_path("perception")
    assert path.stat().st_size < 3_000_000 and path.with_suffix(".md").exists()


def test_folding_keeps_the_function():
    net = Perception().train()
    for _ in range(3): net.decode(net.encode(torch.randn(4, 3, 32, 32)))
    x = torch.rand(2, 3, 48, 40) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(fold_normalisation(net.eval()).segment(x),
                                   net.segment(x), atol=1e-5, rtol=1e-4)


def test_embedded_loss_is_zero_for_equal_and_grows(scenes):
    images, _ = scenes
    loss, noise = perceptual_loss("embedded"), torch.randn(images.shape,
                                                           generator=torch.Generator().manual_seed(0))
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
        h, maps = ((image + 1) / 2 - torch.tensor([.485, .456, .406]).view(1, 3, 1, 1)) / torch.tensor(
            [.229, .224, .225]).view(1, 3, 1, 1), []
        for block in ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28,)):
            for k in block:
                h = F.relu(F.conv2d(h, state[f"features.{k}.weight"], state[f"features.{k}.bias"], padding=1))
                maps.append(h)
            h = F.avg_pool2d(h, 2)
        return maps
    a, b = by_hand(x), by_hand(y)
    assert len(a) == 13
    torch.testing.assert_close(loss(x, y), sum((p - q).abs().mean() for p, q in zip(a, b)),
                               rtol=1e-4, atol=1e-6)
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
    below = [[[0, 50], [100, 50], [100, 100], [0, 100]]]
    sky, water = draw_notes(dict(water=below), torch.full((1, 100, 100), 0.7), side=100)
    assert water[:45].max() == 0 and water[56:].min() == 1 and water[50, 50] == 0.5
    assert sky[:50].eq(0.7).all() and sky[56:].eq(0).all()  # the teacher is not asked about noted water
    scores = torch.zeros(1, 3, 8, 8, requires_grad=True)
    unknown = torch.full((1, 1, 8, 8), 0.5)
    assert photo_loss(scores, torch.ones(1, 1, 8, 8), unknown, torch.tensor([False])) == 0
    torch.testing.assert_close(photo_loss(scores, unknown, torch.ones_like(unknown), torch.tensor([True])),
                               torch.tensor(math.log(3.0)))


def test_held_out_photographs_are_never_trained_on(tmp_path, scenes):
    for k in range(100): save_image(scenes[0][k % 4], tmp_path / f"{k}.png")
    files = sorted(tmp_path.glob("*.png"))
    split = {s: PhotoExamples(files, split=s).names for s in ("train", "test")}
    assert set(split["train"]) | set(split["test"]) == {f.stem for f in files}
    assert not set(split["train"]) & set(split["test"])
    assert split["test"] == [f.stem for f in files if is_held_out(f"{f.parent.name}/{f.name}")]


def test_training_goes_on_bit_for_bit(tmp_path, scenes):
    for k in range(8): save_image(scenes[0][k % 4], tmp_path / "photos" / f"{k}.png")
    files = sorted((tmp_path / "photos").glob("*.png"))
    label_sky(files[:4], lambda x: (x[:, 2:] > x[:, :1]).float(), tmp_path / "sky")
    photos = PhotoExamples(files, tmp_path / "sky", {files[0].stem: dict(water=[]), files[1].stem:
                                                     dict(water=[[[0, 60], [100, 60], [100, 100]]])})
    settings = PerceptionTraining(steps=4, scenes=1, photos=3, sizes=(32, 48), every=2)
    teacher = lambda x: [F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)]
    stop = lambda step, parts: exec("raise KeyboardInterrupt") if step == 2 else None
    whole = train_perception(tmp_path / "a", photos, teacher, settings, "cpu")
    with pytest.raises(KeyboardInterrupt):
        train_perception(tmp_path / "b", photos, teacher, settings, "cpu", log=stop)
    parts = train_perception(tmp_path / "b", photos, teacher, settings, "cpu")
    a, b = load_perception(whole), load_perception(parts)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert a.meta["training"]["with_sky"] == int(photos.has_sky.sum())


def test_teachers_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no teacher"):
        train_perception(tmp_path, teacher=tmp_path / "x.pt", device="cpu")
    (tmp_path / "x.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a TorchScript"):
        train_perception(tmp_path, teacher=tmp_path / "x.pt", device="cpu")


BANDS = [[[0, 0], [100, 0], [100, 30], [0, 30]]], [[[0, 60], [100, 60], [100, 100], [0, 100]]]


@pytest.mark.parametrize("note, sky, water", [({}, 0.5, 0.5), (dict(water=[]), 0.5, 0),
                                              (dict(sky=None), 0.5, 0.5), (dict(sky=[], water=[]), 0, 0),
                                              (dict(sky=[[[0, 0], [100, 0], [100, 100], [0, 100]]]), 1, 0),
                                              (dict(water=[[[0, 0], [100, 0], [100, 100], [0, 100]]]), 0, 1)])
def test_what_a_note_says(note, sky, water):
    assert draw_notes(note, side=20)[0].eq(sky).all() and draw_notes(note, side=20)[1].eq(water).all()


def test_notes_do_not_contradict_themselves():
    sky, water = draw_notes(dict(sky=BANDS[1], water=BANDS[1],
                                 still=[[[40, 70], [60, 70], [60, 90], [40, 90]]],
                                 unknown=[[[0, 0], [9, 0], [9, 99], [0, 99]]]), side=100)
    assert ((sky == 1) & (water == 1)).sum() == 0 and water[70, 90] == 1 and sky[70, 90] == 0  # water wins
    assert water[80, 50] == sky[80, 50] == 0  # what stands in it
    assert sky[:95, :8].eq(0.5).all() and water[:95, :8].eq(0.5).all()


def test_clips_are_examples_too(tmp_path):
    from deeplandscape.media import write_video
    clips = [tmp_path / "c" / f"{k}.mp4" for k in range(3)]
    for clip in clips: write_video(torch.rand(12, 3, 32, 48) * 2 - 1, clip, 10)
    kept = [c for c in clips if not is_held_out(f"c/{c.name}")]
    photos = PhotoExamples(clips, notes={clips[0].stem: dict(kind="sea", water=[])}, frames=4)
    assert photos.names == [c.stem for c in kept for _ in range(4)] and not photos.has_sky.any()
    images, sky, water, has_sky = draw_photos(photos, 5, 32, torch.Generator().manual_seed(0))
    assert images.shape == (5, 3, 32, 32) and sky.allclose(torch.tensor(128 / 255)) and not has_sky.any()


SMALL = SegmenterConfig(stem=8, blocks=((8, 1), (16, 2), (16, 2), (16, 2)), decoder=8, edge=8)


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (33, 97), (256, 128), (20, 400)])
def test_segmenter_takes_any_size(size):
    p = load_segmenter().segment(torch.rand(2, 3, *size) * 2 - 1)
    assert p.shape == (2, 3, *size) and p.min() >= 0
    torch.testing.assert_close(p.sum(1), torch.ones(2, *size))


def test_shipped_segmenter_is_good_and_small(scenes):
    scores = evaluate_perception(load_segmenter(), scenes=32, size=96)
    assert scores["iou_sky"] > 0.85 and scores["iou_static"] > 0.75
    path = registry.weights_path("segmenter")
    assert path.with_suffix(".md").exists()
    assert path.stat().st_size + registry.weights_path("perception").stat().st_size <= 4_000_000


def test_segmenter_is_deterministic_and_independent_of_the_batch(scenes):
    segment, images = segmenter(), scenes[0]
    assert segmenter() is segment and torch.equal(segment(images), segment(images))
    torch.testing.assert_close(segment(images)[2:3], segment(images[2:3]), atol=1e-4, rtol=1e-3)


def test_segmenter_goes_on_bit_for_bit(tmp_path):
    from dataclasses import replace
    settings = replace(MASK_TRAINING, steps=4, scenes=2, sizes=(32, 48), every=2)
    stop = lambda step, parts: exec("raise KeyboardInterrupt") if step == 2 else None
    torch.manual_seed(0)
    begin = Segmenter(SMALL)
    whole = train_perception(tmp_path / "a", None, None, settings, "cpu", net=begin)
    with pytest.raises(KeyboardInterrupt):
        train_perception(tmp_path / "b", None, None, settings, "cpu", log=stop, net=begin)
    a, b = (load_segmenter(whole),
            load_segmenter(train_perception(tmp_path / "b", None, None, settings, "cpu", net=begin)))
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert whole.name == "segmenter.safetensors" and a.config.blocks == SMALL.blocks


def test_the_encoder_learns_at_its_share_of_the_rate(tmp_path):
    "Adam's first steps are as long as the rate; the weights are the live ones, before folding and averaging."
    from dataclasses import replace
    settings, moved = replace(MASK_TRAINING, steps=3, scenes=2, sizes=(32,), mixed=False), {}
    begin, name = Segmenter(SMALL), "blocks.1.point.0.weight"
    for share in (0.1, 1.0):
        train_perception(tmp_path / str(share), None, None, replace(settings, encoder=share), "cpu",
                         net=begin)
        trained, _ = load_tensors(tmp_path / str(share) / "checkpoint.safetensors")
        moved[share] = (trained["net." + name] - begin.state_dict()[name]).abs().mean().item()
    assert moved[1.0] > 0 and 0.05 < moved[0.1] / moved[1.0] < 0.2


def test_masks_are_measured_against_what_is_known(tmp_path, scenes):
    for k in range(60): save_image(scenes[0][0], tmp_path / "p" / f"{k}.png")
    files, note = sorted((tmp_path / "p").glob("*.png")), dict(sky=BANDS[0], water=BANDS[1], kind="sea")
    photos = PhotoExamples(files, notes={f.stem: note for f in files}, split="test", side=100)
    answer = torch.zeros(1, 3, 100, 100)
    answer[:, 0], answer[:, 1, :15], answer[:, 2, 60:] = 0.5, 1, 1  # half of the sky is missed
    row, = [r for r in masks_by_kind(measure_masks(lambda x: answer, photos)) if r["kind"] == "sea"]
    assert row["water_iou"] == 1 and abs(row["sky_iou"] - 0.5) < 0.06 and row["dry_pictures"] == 0
    assert math.isnan(row["false_water"])
    wet = masks_by_kind(measure_masks(lambda x: answer.roll(1, 1), photos))[0]        # all classes exchanged
    assert wet["sky_iou"] < 0.5 and wet["water_iou"] == 0


def picture_of(*bands):
    "Probabilities (3, 100, 40) of horizontal bands: (rows, class, probability of it)."
    rows = [torch.full((n, 3), (1 - p) / 2).index_fill_(1, torch.tensor([k]), p) for n, k, p in bands]
    return torch.cat(rows).T[:, :, None].expand(3, -1, 40)


@pytest.mark.parametrize("bands, words", [
    ([(40, 1, 0.97), (20, 0, 0.97), (40, 2, 0.97)], None),
    ([(40, 1, 0.97), (52, 0, 0.97), (8, 2, 0.70)], "8 % of this looks like water, but not clearly"),
    ([(60, 1, 0.70), (40, 0, 0.97)], "60 % of this looks like sky, but not clearly"),
    ([(40, 1, 0.97), (40, 0, 0.97), (20, 0, 0.50)], "For 20 % of this it is not clear whether it moves"),
    ([(30, 1, 0.97), (40, 0, 0.97), (30, 1, 0.97)], "30 % of this looks like sky below land"),
    ([(100, 0, 0.97)], "Nothing in this looks like sky or water"),
    ([(100, 1, 0.97)], None)])
def test_doubts_are_said(bands, words):
    doubts = mask_doubts(picture_of(*bands))
    assert (doubts == []) if words is None else any(words in d for d in doubts)
    assert all(d.endswith("check with --mask-out.") for d in doubts)
    assert mask_doubts(picture_of(*bands)[None]) == doubts

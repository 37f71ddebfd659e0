"""The procedural world: same seed same bits in any batch, exact truth, land that keeps still, flow that
predicts."""
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from deeplandscape.core import InputError
from deeplandscape.data.weather import (
    palette, sample_weather, scene_seeds, SEEDS_PER_SPLIT, SPLITS, weather_at)
from deeplandscape.data.noise import hash_uniform
from deeplandscape.data.scenes import render, render_clip

SEEDS = scene_seeds("val", 100, 24)


@pytest.fixture(scope="module")
def frames(): return render(SEEDS, height=48)


def tensors(frames):
    for f in dataclasses.fields(frames):
        value = getattr(frames, f.name)
        if isinstance(value, torch.Tensor): yield f.name, value


def warp(x, flow):
    h, w = x.shape[-2:]
    y, x0 = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    grid = torch.stack([(x0 - flow[:, 0]) / w * 2 - 1, (y - flow[:, 1]) / h * 2 - 1], -1)
    return F.grid_sample(x, grid, align_corners=False)


def test_same_seed_same_bits(frames):
    again = render(SEEDS, height=48)
    for name, value in tensors(frames): assert torch.equal(value, getattr(again, name)), name


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=9))
def test_bits_do_not_depend_on_the_batch(chosen):
    whole = getattr(test_bits_do_not_depend_on_the_batch, "whole", None) or render(SEEDS, height=24)
    test_bits_do_not_depend_on_the_batch.whole = whole
    part = render(SEEDS[chosen], height=24)
    for name, value in tensors(part):
        torch.testing.assert_close(value, getattr(whole, name)[chosen], rtol=0,
                                   atol=1e-6 if name != "flow" else 1e-4)
    assert torch.equal(part.images, whole.images[chosen])


def test_seeds_do_not_touch_the_global_generator():
    torch.manual_seed(1); a = torch.rand(3)
    torch.manual_seed(1); render(SEEDS[:2], height=16); b = torch.rand(3)
    assert torch.equal(a, b)


def test_different_seeds_different_scenes(frames):
    flat = F.avg_pool2d(frames.images, 8).flatten(1)
    distance = torch.cdist(flat, flat) + 9 * torch.eye(len(flat))
    assert distance.min() > 0.3


def test_splits_are_disjoint():
    ends = {}
    for split in SPLITS:
        first, last = int(scene_seeds(split, 0, 1)), int(scene_seeds(split, SEEDS_PER_SPLIT - 1, 1))
        assert last - first == SEEDS_PER_SPLIT - 1
        ends[split] = (first, last)
    a, b, c = sorted(ends.values())
    assert a[1] < b[0] and b[1] < c[0] and c[1] < 2**32
    assert (scene_seeds("train", 5, 3).tolist() == [5, 6, 7]
            and scene_seeds("train", 5, 3).dtype == torch.int64)


@pytest.mark.parametrize("split, start, count",
                         [("all", 0, 1), ("val", -1, 1), ("val", 0, -1), ("test", SEEDS_PER_SPLIT, 1)])
def test_bad_seeds(split, start, count):
    with pytest.raises(InputError): scene_seeds(split, start, count)


def test_truth_is_well_formed(frames):
    torch.testing.assert_close(frames.static + frames.sky + frames.water, torch.ones(24, 1, 48, 48), rtol=0,
                               atol=1e-6)
    for mask in (frames.static, frames.sky, frames.water): assert 0 <= mask.min() and mask.max() <= 1
    assert -1 <= frames.images.min() and frames.images.max() <= 1
    for name, value in tensors(frames): assert value.isfinite().all(), name
    assert (frames.flow.abs() * (frames.static == 1)).max() == 0
    assert 0 <= frames.cloud_cover.min() and frames.cloud_cover.max() <= 1
    wet = hash_uniform(SEEDS, "kind") < 0.48
    assert ((frames.water.amax((1, 2, 3)) > 0) == wet).all() and 0.2 < wet.float().mean() < 0.8


def test_brightness_follows_the_sun():
    seeds = scene_seeds("val", 0, 32)
    noon, night = (render(seeds, weather_at(seeds, 0.0, hour), 24).brightness for hour in (12.0, 0.0))
    assert (noon > 1.5 * night).all() and night.min() > 0.05


def test_sunset_is_warmer_than_noon():
    seeds = scene_seeds("val", 0, 32)
    noon, sunset = (render(seeds, weather_at(seeds, 0.0, hour), 24).temperature for hour in (12.0, 19.3))
    assert (sunset > noon).float().mean() > 0.9


def test_static_pixels_ignore_the_clouds(frames):
    other = render(SEEDS, sample_weather(SEEDS, None, torch.arange(24)), 48)
    change = (other.images - frames.images).abs().mean(1, keepdim=True) / 2
    assert torch.equal(other.static, frames.static) and torch.equal(other.water, frames.water)
    assert change[frames.static == 1].max() < 1e-6
    assert change[frames.static == 0].mean() > 0.05          # and what moves is clearly visible at 48 px
    for name in ("sun_elevation",): assert torch.equal(getattr(other, name), getattr(frames, name))


def test_light_and_cloud_seeds_are_separate():
    one = torch.full((6,), int(SEEDS[0]))
    w = sample_weather(one, torch.tensor([0, 0, 0, 1, 2, 3]), torch.tensor([0, 1, 2, 0, 0, 0]))
    assert len(set(w.sun_elevation.tolist())) == 4 and len(set(w.cloud_phase.tolist())) == 3
    assert len(set(sample_weather(SEEDS).sun_elevation.tolist())) == len(SEEDS)


@pytest.mark.parametrize("kind, dt, gain",
                         [("sky", 0.1, 0.7), ("sky", 0.2, 0.65), ("water", 0.1, 0.95), ("water", 0.2, 0.9)])
def test_flow_predicts_the_next_frame(kind, dt, gain):
    seeds = scene_seeds("test", 0, 60)
    seeds = seeds[hash_uniform(seeds, "kind") < 0.48][:10]
    now, w = render(seeds, height=128), sample_weather(seeds)
    then = render(seeds, dataclasses.replace(w, cloud_phase=w.cloud_phase + dt,
                                             ripple_phase=w.ripple_phase + dt), 128)
    mask = getattr(now, kind) > 0.99
    # ripples wider than a pixel
    if kind == "water": mask = mask & (torch.arange(128).view(1, 1, 128, 1) > 100)
    mask = mask & (warp(mask.float(), now.flow * dt) > 0.99)
    error = lambda x: (x - then.images).abs().mean(1, keepdim=True)[mask].mean()
    assert error(warp(now.images, now.flow * dt)) < gain * error(now.images)
    assert error(warp(now.images, -now.flow * dt)) > error(now.images)                  # and its sign matters


def test_flow_scales_with_resolution(frames):
    large = render(SEEDS, height=96)
    inside = (F.max_pool2d(1 - large.sky, 5, 1, 2) == 0)
    inside = F.avg_pool2d(inside.float(), 2) == 1
    torch.testing.assert_close((F.avg_pool2d(large.flow, 2) / 2 * inside).mean(),
                               (frames.flow * inside).mean(), rtol=0.1, atol=0.05)


def test_resolutions_agree():
    small, large = (render(SEEDS, height=h) for h in (64, 128))
    assert (F.avg_pool2d(large.images, 2) - small.images).abs().mean() / 2 < 0.02
    assert (F.avg_pool2d(large.static, 2) - small.static).abs().mean() < 0.01


@pytest.mark.parametrize("height, width", [(16, 48), (33, 57), (48, 24), (4, 4)])
def test_any_size(height, width):
    frames = render(SEEDS[:3], None, height, width)
    assert frames.images.shape == (3, 3, height, width) and frames.flow.shape == (3, 2, height, width)
    assert frames.images.isfinite().all()


def test_bad_calls():
    for call in (lambda: render([]), lambda: render(SEEDS, sample_weather(SEEDS[:2])),
                 lambda: render(SEEDS, height=1),
                 lambda: render(torch.tensor(3)), lambda: render_clip(0, 0)):
        with pytest.raises(InputError): call()


def test_clip_is_smooth_and_still_on_land():
    clip = render_clip(int(SEEDS[3]), 20, 32, seconds=4, light_from=12.0)
    step = (clip.images[1:] - clip.images[:-1]).abs().mean((1, 2, 3))
    assert len(clip) == 20 and step.max() < 0.6 * (clip.images[-1] - clip.images[0]).abs().mean()
    change = (clip.images - clip.images[:1]).abs().amax(1, keepdim=True)
    assert change[clip.static == 1].max() < 1e-5
    assert torch.equal(clip[:3].images, clip.images[:3])


def test_clip_through_the_night_has_no_jump():
    clip = render_clip(int(SEEDS[5]), 120, 16, seconds=1, light_from=0.0, light_to=24.0)
    assert clip.brightness.diff().abs().max() < 0.06 and clip.brightness.max() > 2 * clip.brightness.min()


def test_palette_is_continuous():
    colours = palette(torch.linspace(-0.6, 1.2, 400), torch.zeros(400))
    for name, c in colours.items(): assert c.diff(dim=0).abs().max() < 0.06, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_agrees(frames):
    other = render(SEEDS, height=48, device="cuda")
    assert other.images.is_cuda
    assert (other.images.cpu() - frames.images).abs().mean() < 1e-3
    assert (other.static.cpu() - frames.static).abs().mean() < 1e-3

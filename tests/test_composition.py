"""Properties of moved photographs: nothing jumps, drags, stains or stays, in any direction; and measures that
cannot be fooled."""
import math

import pytest
import torch
import torch.nn.functional as F

from deeplandscape.averages import erode, gaussian, resize
from deeplandscape.media import to_uint8
from deeplandscape.metrics.moving import change_of_shape, doubts, measure_moving, moved_and_stayed
from deeplandscape.video.composition import beyond_warp, Composer, mattes
from deeplandscape.video.controls import CONTROLS
from deeplandscape.video.extension import canvas, extend, fill
from deeplandscape.video.motion import CLOCK, Homography
from deeplandscape.video.wind import patches, renewal, shown_times, wind, wind_asked_for

SIZE = 96, 144


def clouds(seed=0, size=SIZE, sigma=3.0):
    x = gaussian(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed)), sigma)
    return 0.3 * x / x.std()


def ridge(height=0.55, rough=0.12, size=SIZE):
    "Masks (1, 3, H, W) of sky above a ridge of hills."
    h, w = size
    x = torch.arange(w) / w * 2 * math.pi
    line = h * (height + rough * (torch.sin(2 * x) + 0.5 * torch.sin(5 * x + 1)) / 1.5)
    sky = (torch.arange(h)[:, None] < line).float()[None, None]
    return torch.cat([1 - sky, sky, 0 * sky], 1)


def scene(seed=0):
    masks = ridge()
    land = -0.6 + 0.5 * clouds(seed + 1, sigma=1.0)
    return (masks[:, 1:2] * (clouds(seed) + 0.2) + masks[:, :1] * land).clamp(-1, 1), masks


@pytest.mark.parametrize("hour", list(CLOCK))
def test_begins_with_the_photo_without_a_jump_and_leaves_the_land(hour):
    photo, masks = scene()
    compose = Composer(photo, masks, wind(hour, masks, 0.6))
    assert torch.equal(compose(0.0), photo)
    assert (compose(0.01) - photo).abs().max() < 0.02
    for t in 40.0, 120.0:
        assert torch.equal(compose(t) * (compose.masks[:, :1] == 1), photo * (compose.masks[:, :1] == 1))


@pytest.mark.parametrize("hour", list(CLOCK))
def test_every_direction_is_what_the_clock_says(hour):
    photo, masks = scene()
    compose = Composer(photo, masks, H := wind(hour, masks, 0.6))
    found = measure_moving(torch.cat([compose(t) for t in torch.arange(0, 120, 2.0)]),
                           compose.masks, H, fps=15)
    assert found["moved"] > 0.9 and abs(found["stayed"]) < 0.1
    assert abs(found["turned, degrees"]) < 15 and 0.8 < found["speed, of what was asked"] < 1.2
    assert found["sharpness at least"] > 0.85 and doubts(found) == []
    u, v = (wind_asked_for(H, SIZE) * masks[0, 1]).sum((1, 2)) / masks[0, 1].sum()
    turned = math.degrees(math.atan2(u, -v)) - 30 * int(hour[:-1])
    assert abs((turned + 180) % 360 - 180) < 1


@pytest.mark.parametrize("hour", ["3h", "6h", "8h", "12h"])
def test_a_plain_sky_stays_plain(hour):
    "No land is dragged along, nothing stains the sky from the picture's edge, also under a soft mask."
    masks = ridge()
    photo = masks[:, 1:2] * 0.4 + masks[:, :1] * (-0.7 + 0.3 * clouds(3, sigma=1.0))
    soft = resize(resize(masks, (24, 36)), SIZE)
    for given in masks, soft:
        compose = Composer(photo, given, wind(hour, masks, 0.6, speed=2))
        for t in 30.0, 120.0, 300.0:
            assert (compose(t) - photo).abs().max() < 0.06 and (compose(t) - photo).abs().mean() < 2e-3


def test_a_soft_mask_leaves_no_haze_along_the_ridge():
    """With clouds above: what changes at the ridge is sky, in no wider a band than the exact mask would
    change."""
    photo, masks = scene()
    soft = resize(resize(masks, (24, 36)), SIZE)
    assert (mattes(photo, soft) - masks).abs().mean() < 0.6 * (soft - masks).abs().mean()
    H, land = wind("3h", masks, 0.6), erode(masks[:, :1], 3)
    change = (Composer(photo, soft, H)(120.0) - photo).abs()
    assert (change * land).sum() / land.sum() < 0.1 * change.mean()


def test_what_comes_in_is_like_what_was_there():
    photo, masks = torch.clamp(clouds(), -1,
                               1), torch.tensor([0.0, 1, 0]).view(1, 3, 1, 1).expand(1, 3, *SIZE)
    for hour in "3h", "6h", "12h", "10h":
        last = Composer(photo, masks, wind(hour, masks, 1.0, speed=2))(120.0)
        for part in last[..., :24], last[..., -24:], last[:, :, :16], last[:, :, -16:]:
            assert 0.5 < part.std() / photo.std() < 1.6
        strip = last if hour == "3h" else last.transpose(-1, -2)
        alike = [float(F.cosine_similarity(strip[..., c - 18:c].flip(-1).flatten(), strip[..., c:c + 18]
                                           .flatten(), 0)) for c in range(18, strip.shape[-1] - 18)]
        assert max(alike) < 0.9  # nothing is its own mirror image


def test_extension_continues_a_surface_and_a_texture():
    plane = torch.linspace(-0.5, 0.5, 144).view(1, 1, 1, 144).expand(1, 3, *SIZE)
    known = ridge()[:, 1:2]
    assert (fill(plane, known) - plane).abs().max() < 0.35
    assert torch.equal(fill(plane, known) * known, plane * known)
    longer = extend(clouds(), known)
    below = (1 - known).bool().expand(-1, 3, -1, -1)
    assert 0.4 < longer[below].std() / clouds().std() < 1.5
    # nothing known at all
    assert torch.equal(extend(plane, torch.zeros_like(known)).isfinite(), torch.ones(1, 3, *SIZE).bool())
    assert canvas(longer, known).isfinite().all()
    # a slit, a strip, a speck
    for narrow in (slice(None), slice(0, 5)), (slice(3, 9), slice(None)), (slice(40, 44), slice(60, 66)):
        seen = torch.zeros_like(known)
        seen[(..., *narrow)] = 1
        assert canvas(longer, seen).isfinite().all() and extend(longer, seen).isfinite().all()


@pytest.mark.parametrize("size", [(16, 16), (17, 64), (64, 19), (31, 33)])
def test_tiny_and_narrow_pictures(size):
    masks = ridge(size=size)
    photo = clouds(size=size).clamp(-1, 1)
    out = Composer(photo, masks, wind("2h", masks, 0.6))(60.0)
    assert out.shape == photo.shape and out.isfinite().all()


def test_a_loop_closes_and_mixes_little_at_once():
    photo, masks = scene()
    H = wind("3h", masks, 0.6)
    loop = Composer(photo, masks, H, period=renewal(H, 120, True))
    steps = torch.stack([(loop(t + 1.0) - loop(float(t))).square().mean().sqrt() for t in range(0, 120, 4)])
    assert torch.equal(loop(120.0), photo) and steps.max() < 3 * steps.median()
    field = patches(SIZE)
    mixed = [
        float(((w := shown_times(float(t), 600.0, field)[0][1]) > 0.1).logical_and(w < 0.9).float().mean())
        if torch.is_tensor(shown_times(float(t), 600.0, field)[0][1]) else 0 for t in range(0, 600, 5)]
    assert max(mixed) < 0.25  # a long video: a quarter at most is double at any time


def test_long_videos_stay_near_the_photo():
    photo, masks = scene()
    for hour in "3h", "12h":
        H = wind(hour, masks, 0.6)
        compose = Composer(photo, masks, H, period=renewal(H, 6000, False))
        sky = erode(masks[:, 1:2], 2)
        for t in 500.0, 2000.0, 5900.0:
            x = compose(t)
            assert (((x - photo) * sky).sum((2, 3)) / sky.sum()).abs().max() < 0.15
            assert (0.6 < ((x * sky)[sky.expand_as(x) > 0].std() / (photo * sky)[sky.expand_as(x) > 0].std())
                    < 1.5)


def test_a_lazy_model_adds_nothing_that_stays():
    "A model whose sky never moves: what it adds to the warp holds no ghost of its first frame."
    first, everywhere = resize(clouds(), (32, 32)), torch.ones(1, 1, 32, 32)
    moved = first.roll(4, -1)
    for frame in first, moved, 0.5 * (first + moved):
        assert beyond_warp(frame, moved, first, everywhere).std() < 0.1 * first.std()


def test_two_controls_are_measured_as_what_they_are():
    photo, masks = scene()
    H, times = wind("4h", masks, 0.6), torch.arange(0, 120, 4, dtype=torch.float64)
    for name, control in CONTROLS.items():
        found = measure_moving(to_uint8(control(photo, masks[:, :1], H, times)), masks, H, fps=7.5)
        assert found["moved"] > 0.85 and abs(found["stayed"]) < 0.1, name
    veil = 0.5 * control(photo, masks[:, :1], H, times) + 0.5 * photo
    found = measure_moving(veil, masks, H, fps=7.5)
    assert abs(found["moved"] - 0.5) < 0.08 and abs(found["stayed"] - 0.5) < 0.08
    assert "stays in place" in doubts(found)[0]


def test_a_light_that_was_asked_for_is_no_fault():
    "A sky that moves as asked while night falls: nothing is doubtful; a veil in that light still is."
    photo, masks = scene()
    H, times = wind("4h", masks, 0.6), torch.arange(0, 120, 4, dtype=torch.float64)
    dusk = torch.tensor([0.2, 0.25, 0.4]).view(3, 1, 1) ** torch.linspace(0, 1, len(times)).view(-1, 1, 1, 1)
    moved = next(iter(CONTROLS.values()))(photo, masks[:, :1], H, times)
    veil = 0.5 * moved + 0.5 * photo
    lit = {name: measure_moving((video + 1) * dusk - 1, masks, H, fps=7.5, lit=True)
           for name, video in dict(moved=moved, veil=veil).items()}
    assert doubts(lit["moved"]) == [] and "stays in place" in doubts(lit["veil"])[0]
    said = " ".join(doubts(measure_moving((moved + 1) * dusk - 1, masks, H, fps=7.5)))
    assert "colour" in said and "blurred" in said


def test_shares_do_not_depend_on_light_and_see_noise_as_neither():
    photo, masks = scene()
    H, region = wind("9h", masks, 0.6), erode(masks[:, 1:2], 2)
    moved = F.grid_sample(photo, H.grid(SIZE, torch.tensor([90.0], dtype=torch.float64)).float(),
                          "bicubic", "reflection", align_corners=True)
    for a, b, c in ((1, 0, 0.3), (0, 1, -0.2), (0.7, 0.3, 0.0), (0.2, 0.8, 0.1)):
        found = moved_and_stayed(a * moved + b * photo + c, photo, region, H, 90.0)
        assert abs(found[0] - a) < 0.02 and abs(found[1] - b) < 0.02
    noise = moved_and_stayed(clouds(9), photo, region, H, 90.0)
    assert abs(noise[0]) < 0.3 and abs(noise[1]) < 0.3
    assert all(math.isnan(v) for v in moved_and_stayed(photo * 0, photo * 0, region, H, 90.0))
    assert change_of_shape(clouds(9), photo, region) > 3 * change_of_shape(moved, photo, region)


def test_no_wind_and_no_sky():
    photo, masks = scene()
    assert (Composer(photo, masks, wind("3h", masks, 0.6, speed=0.0))(100.0) - photo).abs().max() < 1e-4
    land = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, *SIZE)
    still = Composer(photo, land, Homography())
    assert torch.equal(still(100.0), photo)
    assert measure_moving(photo.expand(5, -1, -1, -1), land, Homography()) == {}

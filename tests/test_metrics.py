"""Metrics against direct computations and closed forms."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplandscape.core import InputError
from deeplandscape.registry import find_weights
from deeplandscape.media import to_uint8
from deeplandscape.metrics.extractors import Extractor, extractor, resized
from deeplandscape.statistics import bootstrap, measure, Measurement
from deeplandscape.metrics.similarity import lpips_distance, masked_ssim, perceptual_distance, ssim, ssim_map
from deeplandscape.metrics.distances import (
    clip_features, compare_sets, compare_videos, frechet_distance, frechet_extrapolated, kernel_distance,
    pooled_features)
from deeplandscape.metrics.flow import (
    consistency_curve, measure_motion, measure_video, motion_amount, optical_flow, segmentation_agreement,
    static_consistency)


def pictures(seed, n=2, size=32):
    g = torch.Generator().manual_seed(seed)
    return F.interpolate(torch.randn(n, 3, 8, 8, generator=g), size=(size, size), mode="bicubic").tanh()


X, Y = pictures(0), (pictures(0) + 0.3
                     * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
MASK = torch.zeros(2, 1, 32, 32); MASK[0, :, 16:] = 1; MASK[1, :, 4:20, 6:29] = 1


def direct(x, y, mask=None, border="partial"):
    "SSIM map of one pair (3, H, W) by loops over pixels, in float64."
    g = np.exp(-(np.arange(-5, 6) / 1.5) ** 2 / 2); g = np.outer(g, g); g /= g.sum()
    a, b = ((v.double().numpy() + 1) / 2 for v in (x, y))
    m = np.ones(a.shape[1:]) if mask is None else mask[0].double().numpy()
    pad = lambda v: np.pad(v, [(0, 0)] * (v.ndim - 2) + [(5, 5), (5, 5)])
    a, b, m = pad(a), pad(b), pad(m if border == "partial" else np.ones_like(m))
    out = np.zeros((3, x.shape[1], x.shape[2]))
    for c in range(3):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                w = g * m[i:i + 11, j:j + 11] if border == "partial" else g
                if w.sum() == 0: continue
                w = w / w.sum()
                p, q = a[c, i:i + 11, j:j + 11], b[c, i:i + 11, j:j + 11]
                mp, mq = (w * p).sum(), (w * q).sum()
                vp, vq, vpq = (
                    w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
                out[c, i, j] = ((2 * mp * mq + 1e-4) * (2 * vpq + 9e-4)
                                / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return torch.from_numpy(out)


@pytest.mark.parametrize("border", ["partial", "zero"])
def test_ssim_equals_the_loops(border):
    got = ssim_map(X, Y, border=border).double()
    for k in range(2):
        torch.testing.assert_close(got[k], direct(X[k], Y[k], border=border), atol=2e-4, rtol=1e-3)


def test_ssim_valid_equals_the_inner_part():
    want = torch.stack([direct(a, b)[:, 5:-5, 5:-5].mean() for a, b in zip(X, Y)])
    torch.testing.assert_close(ssim(X, Y, "valid").double(), want, atol=1e-5, rtol=1e-4)


def test_masked_ssim_equals_the_loops():
    for k in range(2):
        m = MASK[k]
        want = (direct(X[k], Y[k], m).mean(0) * m[0]).sum() / m.sum()
        assert abs(float(masked_ssim(X[k:k + 1], Y[k:k + 1], m[None])) - float(want)) < 1e-4
        a, b = (X[k] + 1) * m - 1, (Y[k] + 1) * m - 1
        released = float(direct(a, b, border="zero").mean())
        assert abs(float(masked_ssim(X[k:k + 1], Y[k:k + 1], m[None], "released")) - released) < 1e-4


def test_ssim_against_scikit_image():
    structural = pytest.importorskip("skimage.metrics").structural_similarity
    for a, b in zip(X, Y):
        want = structural((a.numpy() + 1) / 2, (b.numpy() + 1) / 2, channel_axis=0, data_range=1,
                          gaussian_weights=True, sigma=1.5,
                          use_sample_covariance=False)
        assert abs(float(ssim(a[None], b[None], "valid")) - want) < 1e-4


def test_ssim_against_torchmetrics():
    "The second implementation mirrors the picture at its border; the windows that lie inside must agree."
    structural = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    _, where = structural((X + 1) / 2, (Y + 1) / 2, data_range=1.0, reduction="none", return_full_image=True)
    torch.testing.assert_close(ssim_map(X, Y, border="valid"), where[..., 5:-5, 5:-5], atol=1e-4, rtol=1e-3)


def test_kernel_distance_against_torchmetrics():
    poly_mmd = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    a, b = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(0)).double()
    assert abs(kernel_distance(a, b)[0] - float(poly_mmd(a, b))) < 1e-9


def test_masks():
    torch.testing.assert_close(masked_ssim(X, Y, torch.ones_like(MASK)), ssim(X, Y))
    torch.testing.assert_close(masked_ssim(X, X, MASK), torch.ones(2))
    assert masked_ssim(X, Y, 0 * MASK).isnan().all() and masked_ssim(X, Y, 0 * MASK, "released").isnan().all()
    mixed = X * MASK + Y * (1 - MASK)                                     # equal inside the mask only
    torch.testing.assert_close(masked_ssim(X, mixed, MASK), torch.ones(2), atol=1e-5, rtol=0)
    assert (masked_ssim(X, mixed, 1 - MASK) < 0.9).all()


def test_identities():
    torch.testing.assert_close(ssim(X, X), torch.ones(2))
    # published
    torch.testing.assert_close(ssim(-torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64)),
                               torch.tensor([9.999e-05]))
    assert perceptual_distance(X, X).abs().max() == 0
    f = pooled_features(pictures(3, 6, 64))
    assert abs(frechet_distance(f, f)) < 1e-8


@pytest.mark.parametrize("x, y", [(X, X[:, :, :16]), (X.byte(), X.byte()), (X[0], X[0]),
                                  (X[..., :8, :8], X[..., :8, :8])])
def test_ssim_refuses(x, y):
    with pytest.raises(InputError): ssim(x, y)


def whitened(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)); x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1))).T


def test_frechet_closed_forms():
    a, b = whitened(300, 12, 0), whitened(200, 12, 1)
    assert abs(frechet_distance(a, b)) < 1e-9
    assert abs(frechet_distance(a, b + np.arange(12)) - (np.arange(12) ** 2).sum()) < 1e-8
    assert abs(frechet_distance(2 * a, 5 * b) - 9 * 12) < 1e-8
    rng = np.random.default_rng(2)  # any covariances: by the matrix square root
    p, q = rng.normal(size=(12, 12)), rng.normal(size=(12, 12))
    from scipy.linalg import sqrtm
    s, t = p.T @ p, q.T @ q
    want = np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert abs(frechet_distance(a @ p, b @ q) / want - 1) < 1e-6


def test_frechet_with_fewer_pictures_than_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 100)), rng.normal(size=(15, 100)) + 0.5
    mx, my, sx, sy = x.mean(0), y.mean(0), np.cov(x.T), np.cov(y.T)
    w, v = np.linalg.eigh(sx)
    root = (v * np.sqrt(w.clip(0))) @ v.T
    want = (((mx - my) ** 2).sum() + np.trace(sx + sy) - 2
            * np.sqrt(np.linalg.eigvalsh(root @ sy @ root).clip(0)).sum())
    assert abs(frechet_distance(x, y) / want - 1) < 1e-5
    assert "caution" in compare_sets(torch.tensor(x), torch.tensor(y), resamples=2).protocol


def test_frechet_bias_is_one_line():
    "The value falls with 1/n towards that of the distribution (here 0)."
    rng = np.random.default_rng(0)
    mean = lambda n: np.mean([frechet_distance(rng.normal(size=(n, 6)), rng.normal(size=(n, 6)))
                              for _ in range(30)])
    small, large = mean(50), mean(200)
    assert 2.5 < small / large < 6


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.normal(size=(30, 5)), rng.normal(size=(40, 5)), subsets=5)[0]
              for _ in range(60)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 60**0.5
    assert kernel_distance(rng.normal(size=(200, 5)), rng.normal(1, 1, size=(200, 5)))[0] > 1


def named(name, standard=True): return Extractor(name, None, "", "-1..1", "a" * 64, standard)


def test_names_say_what_measured():
    f = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double()
    for name, kind, metric in (("inception", "frechet", "FID"), ("inception", "kernel", "KID"),
                               ("i3d", "frechet", "FVD")):
        m = compare_sets(f, f, kind, named(name), resamples=0)
        assert m.protocol["metric"] == metric and m.protocol["paper_comparable"]
        other = compare_sets(f, f, kind, named(name, False), resamples=0).protocol
        assert other["metric"] not in ("FID", "KID", "FVD") and not other["paper_comparable"]
    for kind in ("frechet", "kernel"):
        m = compare_sets(f, f + 1, kind, resamples=4)
        assert ("FID" not in m.protocol["metric"] and "KID" not in m.protocol["metric"]
                and not m.protocol["paper_comparable"])
        assert m.low <= m.value <= m.high and m.protocol["weights"] != "none" and m.protocol["seed"] == 0


def test_measurement():
    rows = np.random.default_rng(0).normal(size=400)
    wide, narrow = bootstrap(rows[:25]), bootstrap(rows)
    assert wide[1] <= wide[0] <= wide[2] and 2.5 < (wide[2] - wide[1]) / (narrow[2] - narrow[1]) < 6
    m = measure([1.0, math.nan, 3.0], "ssim", mask="static")
    assert m.value == 2 and m.protocol == dict(metric="ssim", items=3, left_out=1, seed=0, mask="static")
    assert math.isnan(measure([], "ssim").value) and isinstance(m, Measurement)
    with pytest.raises(AttributeError): m.value = 3


def test_perceptual_distance_masks():
    x = pictures(5, 2, 64); y = x.clone(); y[..., :32, :] = x.flip(0)[..., :32, :]
    lower = torch.zeros(2, 1, 64, 64); lower[..., 32:, :] = 1
    assert (perceptual_distance(x, y, lower) < 0.6 * perceptual_distance(x, y, 1 - lower)).all()
    torch.testing.assert_close(perceptual_distance(x, y, torch.ones_like(lower)), perceptual_distance(x, y))
    assert perceptual_distance(x, y, 0 * lower).isnan().all()
    with pytest.raises(InputError): perceptual_distance(x.long(), y.long())


@pytest.mark.parametrize("speed", [(1.0, 0.0), (0.0, -2.0), (1.5, 0.75)])
def test_flow_of_a_translation(speed):
    texture = F.interpolate(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
                            size=(128, 128), mode="bicubic").clamp(-1, 1)
    theta = lambda t: torch.tensor([[[.5, 0, -speed[0] * t / 64], [0, .5, -speed[1] * t / 64]]])
    frames = torch.cat([F.grid_sample(texture, F.affine_grid(theta(t), (1, 3, 64, 64), align_corners=False),
                                      align_corners=False) for t in range(4)])
    flow = optical_flow(frames)[..., 8:-8, 8:-8]
    torch.testing.assert_close(flow.mean((0, 2, 3)), torch.tensor(speed), atol=0.03, rtol=0.05)
    assert abs(motion_amount(flow, unit="px") - math.hypot(*speed)) < 0.06


def test_units_of_motion():
    flow = torch.tensor([3.0, -4.0]).view(1, 2, 1, 1).expand(5, 2, 20, 40)
    assert (motion_amount(flow, unit="px") == 5 and abs(motion_amount(flow) - 5 / 20) < 1e-7
            and motion_amount(flow, unit="px", mode="released") == 5)
    mixed = torch.cat([flow, -flow])
    assert motion_amount(mixed, unit="px", mode="released") == 5
    with pytest.raises(InputError): motion_amount(flow, unit="m/s")


def test_static_consistency_and_video():
    frames, mask = pictures(7, 6, 64), torch.zeros(1, 1, 64, 64); mask[..., 20:, :] = 1
    frames = torch.where(mask > 0, frames[:1], frames)
    for metric, ideal in (("ssim", 1.0), ("difference", 0.0)):
        torch.testing.assert_close(static_consistency(frames, mask, metric), torch.full((6,), ideal),
                                   atol=1e-5, rtol=0)
    assert static_consistency(frames, 1 - mask)[1:].max() < 0.9
    found = measure_video(frames, mask, frames[:1])
    assert all(isinstance(m, Measurement) and m.protocol["metric"] for m in found.values())
    assert found["reconstruction_ssim"].value > 0.9999 and found["flicker"].value == 0


# the twelve traps: what goes wrong silently in evaluations, one test each

def test_trap_01_batch_size():
    images = pictures(11, 10)
    for name in ("embedded", "random"):
        a, b = (pooled_features(images, name, batch=n) for n in (3, 10))
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
        assert abs(frechet_distance(a, b)) < 1e-3


def test_trap_02_identical_sets():
    f = pooled_features(pictures(12, 12), "random")
    assert abs(frechet_distance(f, f)) < 1e-8 and kernel_distance(f, f)[0] < 1e-9


def test_trap_03_closed_form():
    a, b = whitened(400, 8, 3), whitened(300, 8, 4)
    m = compare_sets(a, 2 * b + 1, by=named("random", False), resamples=0)
    assert abs(m.value - (8 * 1 + 8 * 1)) < 1e-8


def test_trap_04_ranges():
    x, y = pictures(13, 2, 32), pictures(14, 2, 32)
    want = perceptual_distance(x, y)
    torch.testing.assert_close(perceptual_distance(to_uint8(x), to_uint8(y)), want, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(perceptual_distance((x + 1) / 2, (y + 1) / 2, span="0..1"), want, atol=1e-5,
                               rtol=1e-4)
    for wrong in ((x + 1) / 2, (x + 1) * 127.5):
        with pytest.raises(InputError): perceptual_distance(wrong, wrong)
        with pytest.raises(InputError): pooled_features(wrong)
    assert (perceptual_distance(x, y, fed="0..1") - want).abs().min() > 1e-3  # what the slip would have given


def test_trap_05_resizing_is_named():
    x = pictures(15, 2, 96) + 0.2 * torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert (resized(x, 24, "bicubic") - resized(x, 24, "bicubic-antialias")).abs().mean() > 0.02
    assert "bilinear-antialias to 64 px" == extractor("embedded").protocol["resize"]
    assert extractor("embedded", side=32).protocol["resize"].endswith("32 px")


def test_trap_06_masks():
    network = lambda a, b: (a - b).square().mean(1, keepdim=True)
    ones = torch.ones(2, 1, 32, 32)
    torch.testing.assert_close(lpips_distance(X, Y, ones, network=network),
                               lpips_distance(X, Y, network=network))
    assert lpips_distance(X, Y, 0 * ones, network=network).isnan().all()
    empty = measure(masked_ssim(X, Y, 0 * ones), "SSIM")
    assert (math.isnan(empty.value) and "empty" in empty.protocol["reason"]
            and empty.as_dict()["value"] is None)


def test_trap_07_fvd_needs_ten_frames():
    clips = pictures(16, 8, 32)[None].expand(3, -1, -1, -1, -1)
    with pytest.raises(InputError, match="at least 10"): clip_features(clips, named("i3d"), frames=8)
    with pytest.raises(InputError, match="8 frames"): clip_features(clips, named("i3d"), frames=10)
    assert clip_features(clips, "embedded-video", frames=8).shape == (3, 480)


def test_trap_08_fewer_items_than_features():
    rng = np.random.default_rng(0)
    m = compare_sets(rng.normal(size=(12, 50)), rng.normal(size=(14, 50)), by=named("inception"), resamples=3)
    assert (math.isfinite(m.value) and "caution" in m.protocol
            and m.as_dict()["protocol"]["extrapolated"] is None)


def moving_texture(speed, side, frames=3):
    texture = F.interpolate(torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
                            size=(2 * side, 2 * side), mode="bicubic").clamp(-1, 1)
    theta = lambda t: torch.tensor([[[.5, 0, -speed[0] * t / side], [0, .5, -speed[1] * t / side]]])
    shape = (1, 3, side, side)
    return torch.cat([F.grid_sample(texture, F.affine_grid(theta(t), shape, align_corners=False),
                                    align_corners=False) for t in range(frames)])


def test_trap_09_known_speed():
    found = measure_motion([moving_texture((1.5, -2.0), 96)], [F.pad(torch.ones(1, 1, 80, 80), (8,) * 4)],
                           side=192)
    assert abs(found["px"].value / 2.5 - 1) < 0.05 and abs(found["half-width"].value * 48 / 2.5 - 1) < 0.05


@pytest.mark.skipif(find_weights("raft") is None, reason="the weights of RAFT are not here")
def test_trap_09_known_speed_by_raft():
    flow = optical_flow(moving_texture((1.5, -2.0), 128), side=256, method="raft")[..., 16:-16, 16:-16]
    assert abs(motion_amount(flow, unit="px") / 2.5 - 1) < 0.05


def test_trap_09_units_of_a_network():
    "A network that always answers (8, 4) px at 256 px says (2, 1) px of a 64 px frame."
    constant = Extractor("constant", lambda a, b: torch.tensor(
        [8.0, 4.0]).view(1, 2, 1, 1).expand(len(a), 2, *a.shape[-2:]), "none", "-1..1")
    flow = optical_flow(pictures(17, 3, 64), 256, constant)
    torch.testing.assert_close(flow, torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand(2, 2, 64, 64))


def test_trap_10_interval():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 800, 4))
    widths = []
    for n in (100, 800):
        m = compare_sets(x[:n], y[:n] + 0.5, by=named("random", False), resamples=60)
        assert m.low <= m.value <= m.high
        widths.append(m.high - m.low)
    assert 1.8 < widths[0] / widths[1] < 4.5                                      # sqrt(8) is 2.8


def test_trap_11_bias_line():
    rng, limits, values = np.random.default_rng(0), {150: [], 600: []}, {150: [], 600: []}
    for _ in range(8):
        x, y = rng.normal(size=(600, 6)), rng.normal(0, 1.5, size=(600, 6))
        for n in limits:
            line = frechet_extrapolated(x[:n], y[:n])
            limits[n].append(line.limit), values[n].append(line.values[-1])
    truth, mean = 6 * 0.25, np.mean
    assert mean(values[150]) > mean(values[600]) + 0.1
    assert abs(mean(limits[150]) - mean(limits[600])) < 0.15 and abs(mean(limits[600]) - truth) < 0.12


def test_trap_12_order_of_files():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(50, 5))
    p, q = rng.permutation(60), rng.permutation(50)
    for kind in ("frechet", "kernel"):
        a, b = (compare_sets(*pair, kind, named("random", False), resamples=5)
                for pair in ((x, y), (x[p], y[q])))
        assert (a.value, a.low, a.high) == (b.value, b.low, b.high)
    assert bootstrap(x[:, 0]) == bootstrap(x[p, 0])


# videos and segmentations

def test_video_distance_sees_motion():
    clip = pictures(18, 1, 48).expand(10, -1, -1, -1)
    still = torch.stack([clip.roll(k, -1) for k in range(6)])
    moving = torch.stack([torch.stack([f.roll(t + k, -1) for t, f in enumerate(clip)]) for k in range(6)])
    assert compare_videos(still, still, frames=10, resamples=0).value < 1e-8
    m = compare_videos(still, moving, frames=5, stride=2, resamples=0)
    assert (m.value > 0.1 and m.protocol["frames"] == 5 and m.protocol["stride"] == 2
            and m.protocol["metric"] == "Frechet video distance (embedded)")


def test_consistency_curve_has_an_interval_per_frame():
    videos = [pictures(20 + k, 1, 32) + 0.1 * t
              * torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(k))
              for k, t in enumerate([torch.arange(7.0).view(-1, 1, 1, 1)] * 4)]
    curve = consistency_curve(videos, [torch.ones(1, 1, 32, 32)] * 4, every=3)
    assert [m.protocol["frame"] for m in curve] == [0, 3, 6] and curve[0].value > 0.999
    assert curve[0].value > curve[1].value > curve[2].value and all(m.low <= m.value <= m.high for m in curve)


def test_segmentation_agreement_by_hand():
    a = torch.zeros(1, 3, 4, 4); a[:, 0, :2] = 1; a[:, 1, 2:] = 1
    b = torch.zeros(1, 3, 4, 4); b[:, 0, :1] = 1; b[:, 1, 1:] = 1
    found = segmentation_agreement(a, b)
    assert (found["accuracy"].value == 0.75 and found["static"].value == 0.5
            and abs(found["sky"].value - 2 / 3) < 1e-9)
    assert math.isnan(found["water"].value) and found["water"].protocol["left_out"] == 1

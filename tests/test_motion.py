"""Homographies and warped noise maps: closed forms, the released program's arrays, directions, statistics."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from deeplandscape.core import InputError
from deeplandscape.video.motion import CLOCK, Homography, moving_maps

GOLDEN = np.load(Path(__file__).parent / "goldens" / "motion_parity.npz")
hours, horizons = st.sampled_from(list(CLOCK)), st.sampled_from([0.0, 0.12, 0.5, 0.66, 1.0])
exponents = st.floats(-60, 60, allow_nan=False)


def distance(a, b):
    return ((torch.as_tensor(a).double() - torch.as_tensor(b).double()).norm()
            / torch.as_tensor(b).double().norm())


@pytest.mark.parametrize("horizon", [0.0, 0.5, 0.66, 1.0])
def test_released_arrays(horizon):
    H = Homography.clock("12h", horizon=horizon)
    assert distance(H.sky_matrix(), GOLDEN[f"homH_sky_{horizon}"][0]) < 1e-5
    assert distance(H.earth_matrix(), GOLDEN[f"homH_earth_{horizon}"][0]) < 1e-5
    x = torch.from_numpy(np.random.RandomState(11).standard_normal((1, 1, 32, 32)).astype("float32"))
    for n in (1, 7, -3): assert distance(H.warp(x, n), GOLDEN[f"hom_h{horizon}_n{n}"]) < 1e-5
    batch = H.warp(x, torch.tensor([1.0, 7.0, -3.0]))
    for y, n in zip(batch, (1, 7, -3)): assert distance(y, GOLDEN[f"hom_h{horizon}_n{n}"]) < 1e-5


@settings(max_examples=30, deadline=None)
@given(hours, horizons, st.integers(1, 40))
def test_powers_are_products(hour, horizon, n):
    H = Homography.clock(hour, horizon)
    product = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    for _ in range(n): product = product @ torch.stack([H.sky_matrix(), H.earth_matrix()])
    torch.testing.assert_close(H.power(n), product, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(H.power(-n) @ product, torch.eye(3, dtype=torch.float64).expand(2, 3, 3),
                               rtol=1e-8, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(hours, horizons, exponents, exponents)
def test_powers_add(hour, horizon, a, b):
    H = Homography.clock(hour, horizon)
    torch.testing.assert_close(H.power(a) @ H.power(b), H.power(a + b), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("horizon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shifts", [((0.1, 0),) * 4, ((-0.1, 0), (-0.1, 0), (0.1, 0), (0.1, 0)),
                                    ((0, 0),) * 4, ((0.02, 0.01), (-0.04, 0.03), (0, 0.01), (0.02, 0))])
def test_custom_points_defective_matrices_included(shifts, horizon):
    "A shift and a shear have no basis of eigenvectors; their powers are exact all the same."
    H = Homography(shifts, horizon)
    sky = torch.linalg.matrix_power(H.sky_matrix(), 50)
    torch.testing.assert_close(H.power(50)[0], sky, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(H.power(0.5)[1] @ H.power(0.5)[1], H.earth_matrix(), rtol=1e-9, atol=1e-9)


def test_power_zero_is_identity_and_leaves_maps_alone():
    H, x = Homography.clock("12h"), torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(H.power(0), torch.eye(3, dtype=torch.float64).expand(2, 3, 3), rtol=0,
                               atol=1e-14)
    assert torch.equal(H.warp(x, 0, "steady"), x)
    torch.testing.assert_close(H.warp(x, 0), x, rtol=1e-4, atol=1e-4)


def motion(hour, rows):
    "Shift (right, up) of a smooth map between times 0 and t, by phase correlation."
    t = 4 if hour == "12h" else 24
    x = F.interpolate(torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(1)), size=128,
                      mode="bicubic", align_corners=True)
    y = Homography.clock(hour, speed=2).warp(x, t, "steady")
    window = torch.hann_window(64)[:, None] * torch.hann_window(128)
    a, b = (torch.fft.fft2((m[0, 0, rows] - m.mean()) * window) for m in (x, y))
    surface = torch.fft.ifft2(b * a.conj() / (b * a.conj()).abs().sqrt().clamp(min=1e-6)).real
    dy, dx = divmod(surface.argmax().item(), 128)
    return (dx + 64) % 128 - 64, -((dy + 32) % 64 - 32)


@pytest.mark.parametrize("hour", CLOCK)
def test_content_moves_where_the_clock_points(hour):
    angle = int(hour[:-1]) * math.pi / 6
    right, up = motion(hour, slice(0, 64))
    assert right * math.sin(angle) + up * math.cos(angle) > 0.5 * math.hypot(right, up) > 0
    right_below, up_below = motion(hour, slice(64, 128))
    assert right * right_below >= 0 and up * up_below <= 0  # the mirror image below the horizon


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("hour", ["3h", "12h"])
def test_mean_and_std_are_kept(size, hour):
    x = torch.randn(4, 1, size, size, generator=torch.Generator().manual_seed(size)) + 0.2
    y = Homography.clock(hour, horizon=0.6).warp(x, torch.arange(0, 100.0), "steady")
    std, mean = y.std((2, 3, 4)), y.mean((2, 3, 4))
    assert (std / x.std((1, 2, 3)) - 1).abs().max() < 0.03
    assert (mean - x.mean((1, 2, 3))).abs().max() < 0.02
    # no jump after frame 0
    assert (y[1] - y[0]).abs().max() < 4 * (y.diff(dim=0)).abs().amax(dim=(1, 2, 3, 4)).median() + 0.5


def test_local_variance_is_kept_before_any_rescaling():
    "White noise keeps its variance at every pixel, and frames differ evenly."
    x = torch.randn(600, 1, 24, 24, generator=torch.Generator().manual_seed(3))
    y = Homography.clock("2h").warp(x, torch.tensor([0.0, 1.0, 3.5, 20.0]), "steady")
    inner = y.std(1)[:, 0, 3:-3, 3:-3]
    assert (inner - 1).abs().max() < 0.15 and (inner.mean((1, 2)) - 1).abs().max() < 0.02


def test_smooth_and_constant_maps_are_not_amplified():
    smooth = F.interpolate(torch.randn(1, 1, 5, 5), size=64, mode="bicubic", align_corners=True)
    H = Homography.clock("3h", horizon=1.0)
    a, b = (H.warp(smooth, 3.3, sampling)[..., 4:-4, 4:-4] for sampling in ("bilinear", "steady"))
    assert distance(b, a) < 0.1
    for value in (0.0, 1.5):
        assert torch.isfinite(H.warp(torch.full((1, 1, 8, 8), value), 3.3, "steady")).all()
    torch.testing.assert_close(H.warp(torch.full((1, 1, 8, 8), 1.5), 3.3, "steady"),
                               torch.full((1, 1, 8, 8), 1.5))


@pytest.mark.parametrize("horizon", [0.0, 1.0])
def test_all_earth_and_all_sky(horizon):
    H, x = Homography.clock("3h", horizon), torch.randn(1, 1, 16, 16)
    still, moving = (H.sky_matrix(), H.earth_matrix()) if horizon == 0 else (H.earth_matrix(), H.sky_matrix())
    torch.testing.assert_close(still, torch.eye(3, dtype=torch.float64))
    assert H.seam(16) == (0 if horizon == 0 else 16) and not torch.allclose(moving, still)
    for sampling in ("bilinear", "released", "steady"):
        assert torch.isfinite(H.warp(x, torch.linspace(-200, 200, 9), sampling)).all()


def test_batch_of_times_equals_single_times():
    H, x = Homography.clock("10h", 0.4), torch.randn(3, 1, 32, 32)
    for sampling in ("bilinear", "released", "steady"):
        y = H.warp(x, torch.tensor([0.0, 1.5, -4.0]), sampling)
        for row, t in zip(y, (0.0, 1.5, -4.0)):
            torch.testing.assert_close(row, H.warp(x, t, sampling), rtol=1e-5, atol=1e-5)
        for b in range(3):
            torch.testing.assert_close(y[:, b:b + 1],
                                       H.warp(x[b:b + 1], torch.tensor([0.0, 1.5, -4.0]), sampling),
                                       rtol=1e-4, atol=1e-5)


def test_periods_close_and_keep_statistics():
    maps, H = [torch.randn(1, 1, s, s) for s in (4, 8, 16, 32)], Homography.clock("1h")
    for overlap in (1.0, 0.5):
        times = torch.tensor([0.0, 20.0, 50.0, 59.999, 60.0, 60.001])
        for x, y in zip(maps, moving_maps(maps, H, times, period=60, overlap=overlap)):
            torch.testing.assert_close(y[4], y[0], rtol=1e-3, atol=1e-3)
            # nothing jumps where a period begins
            torch.testing.assert_close(y[3], y[5], rtol=1e-2, atol=1e-2)
            assert (y.std((1, 2, 3)) / x.std() - 1).abs().max() < 0.03
    early = moving_maps(maps, H, torch.tensor([10.0]), period=60, overlap=0.5)
    for y, z in zip(early, moving_maps(maps, H, torch.tensor([10.0]))):
        torch.testing.assert_close(y, z, rtol=1e-3, atol=1e-3)


def test_mistakes_are_named():
    with pytest.raises(InputError) as error: Homography.clock("north")
    assert all(hour in str(error.value) for hour in CLOCK)
    with pytest.raises(InputError, match="horizon"): Homography.clock("3h", horizon=-0.1)
    with pytest.raises(InputError, match="fold"): Homography(((2.5, 0), (-2.5, 0), (0, 0), (0, 0)))
    with pytest.raises(InputError, match="four"): Homography(((0, 0), (0, 0)))
    with pytest.raises(InputError, match="sampling"):
        Homography.clock("3h").warp(torch.zeros(1, 1, 4, 4), 1, "best")
    assert (Homography.random(5) == Homography.random(5)
            and len({Homography.random(s).shifts for s in range(60)}) == 12)

"""Compared systems keep the promises of their interface; linear dynamics is the closed form it claims."""
import math

import pytest
import torch
from animator_contract import check_animator

from deeplandscape.baselines.linear_dynamics import (
    fit_linear, LinearDynamics, run_closed, run_forward, sky_of_clip)
from deeplandscape.baselines.systems import (
    Animator, draw_clip, feathered, largest_rectangle, paste, read_source, run_measured, StillAnimator)
from deeplandscape.core import InputError
from deeplandscape.data.scenes import render_clip
from deeplandscape.data.weather import scene_seeds
from deeplandscape.media import save_image, to_uint8, write_video


@pytest.fixture(scope="module")
def clip(): return render_clip(int(scene_seeds("val", 2, 1)), 24, 48, 64).images


@pytest.fixture(scope="module")
def photo(): return render_clip(int(scene_seeds("test", 3, 1)), 1, 48, 64).images[0]


def test_the_still_photograph(photo):
    video = check_animator(StillAnimator, photo, seeds_differ=False)
    assert (video.frames == to_uint8(photo)).all()


@pytest.mark.parametrize("closed", [False, True])
def test_linear_dynamics(photo, clip, closed):
    other = render_clip(int(scene_seeds("val", 5, 1)), 24, 48, 64).images
    make = lambda: LinearDynamics([("a", clip), ("b", other)], 8, 32, closed)
    video = check_animator(make, photo)
    land = (video.masks[1] < 0.5).expand(3, -1, -1)
    assert (video.frames[:, land] == to_uint8(photo)[land]).all()
    # the closed loop plays the clip up to its first jump
    check_animator(make, clip, seeds_differ=not closed)


def test_the_fit_is_the_least_squares_one(clip):
    """Against the definition: the best approximation of rank n, and no other A leaves less."""
    y = clip.flatten(1).double()
    system = fit_linear(y.float(), 6)
    centred = (y.float().double() - y.float().double().mean(0)).T
    U, S, V = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(system.C @ system.X, U[:, :6] * S[:6] @ V[:6], atol=1e-6, rtol=0)
    left = lambda A: (system.X[:, 1:] - A @ system.X[:, :-1]).square().sum()
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        assert left(system.A) < left(system.A + 1e-3 * torch.randn(6, 6, generator=g).double())
    rest = system.X[:, 1:] - system.A @ system.X[:, :-1]
    torch.testing.assert_close(system.B @ system.B.T, rest @ rest.T / rest.shape[1])


def test_noise_has_the_covariance_of_what_the_fit_leaves(clip):
    system = fit_linear(clip.flatten(1), 3)
    states = run_forward(system, 20_000, seed=1)
    noise = states[:, 1:] - system.A @ states[:, :-1]
    wanted = system.B @ system.B.T
    found, most = noise @ noise.T / noise.shape[1], 0.06 * float(wanted.max())
    torch.testing.assert_close(found, wanted, atol=most, rtol=0)


def test_a_closed_loop_neither_fades_nor_grows(clip):
    length = lambda x: x.norm(dim=0)
    for states in (4, 12):
        system = fit_linear(clip.flatten(1), states)
        path = run_closed(system, 500)[0]
        assert 0.2 < length(path)[250:].mean() / length(system.X).mean() < 1.5
        assert length(path).max() < 3 * length(system.X).max()


def test_clips_of_no_change_are_fitted_all_the_same():
    system = fit_linear(torch.full((5, 7), 0.25), 3)
    states = run_forward(system, 10)
    torch.testing.assert_close(system.frames(states).float(), torch.full((10, 7), 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("region", [torch.rand(9, 7, generator=torch.Generator().manual_seed(k)) > 0.4
                                    for k in range(6)])
def test_the_largest_rectangle_by_trying_all(region):
    h, w = region.shape
    best = max(((b - t) * (r - s) for t in range(h) for b in range(t + 1, h + 1) for s in range(w)
                for r in range(s + 1, w + 1) if region[t:b, s:r].all()), default=0)
    top, left, height, width = largest_rectangle(region)
    assert height * width == best and region[top:top + height, left:left + width].all()


def test_land_is_pasted_bit_for_bit(photo):
    region = torch.zeros(1, 1, 48, 64)
    region[..., :20, :] = 1
    pasted = paste(photo[None], torch.zeros(3, 3, 48, 64), feathered(region))
    assert torch.equal(pasted[..., 20:, :], photo[None, :, 20:].expand(3, -1, -1, -1))
    assert pasted[..., :15, :].abs().max() < 0.05


def test_files_and_tensors_are_the_same_source(photo, clip, tmp_path):
    save_image(photo, tmp_path / "a.png")
    read, none = read_source(tmp_path / "a.png")
    assert none is None and (read[0] - photo).abs().max() <= 1.01 / 127.5
    write_video(clip, tmp_path / "a.mp4", 30)
    first, whole = read_source(str(tmp_path / "a.mp4"))
    assert whole.shape == clip.shape and torch.equal(first, whole[:1])
    assert torch.equal(read_source(to_uint8(clip))[1], read_source(to_uint8(clip).clone())[1])


def test_what_cannot_be_learnt_from(photo, clip, tmp_path):
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(InputError): read_source(tmp_path / "a.txt")
    with pytest.raises(InputError): read_source(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match="not a clip of at least 2"): draw_clip([("one", clip[:1])])
    with pytest.raises(InputError, match="no rectangle of sky"):
        sky_of_clip([("land", clip)], segment=lambda x: torch.eye(3)[:1, :, None, None].expand(
            len(x), 3, *x.shape[-2:]))


def test_a_photograph_without_sky_stays(photo):
    land = lambda x: torch.eye(3)[:1, :, None, None].expand(len(x), 3, *x.shape[-2:])
    video = LinearDynamics([], segment=land).fit(photo).animate(4)
    assert (video.frames == to_uint8(photo)).all() and video.report["note"] == "no sky"


def test_costs_are_measured(photo):
    report = run_measured(StillAnimator(), photo, 3).report
    assert report["system"] == "still photo" and report["memory at most, GB"] > 0.05
    assert all(report[f"seconds, {k}"] >= 0 and math.isfinite(report[f"seconds, {k}"])
               for k in ("fit", "animate"))


def test_an_animator_that_lacks_something_is_none():
    class Half(Animator):
        def fit(self, source): return self
    with pytest.raises(TypeError): Half()

"""Two streams keep the interface, mind the mask, and take looks and motion from where they should;
videos of other programs are read as they are, or refused."""
import pytest
import torch
import torch.nn.functional as F
from animator_contract import check_animator

from deeplandscape.baselines.motion_energy import begin_mixture, MotionEnergy, turned_batch
from deeplandscape.baselines.registry import COMPARED, find_system
from deeplandscape.baselines.systems import CARD, SYSTEM_SIZES, SystemSettings
from deeplandscape.baselines.two_stream import (
    between_frames, gram_inside, motion_maps, synthesise, two_stream_loss, TwoStream, TwoStreamConfig)
from deeplandscape.core import InputError
from deeplandscape.data.scenes import render_clip
from deeplandscape.data.weather import scene_seeds
from deeplandscape.experiments.comparison import scene_clips
from deeplandscape.experiments.given_frames import file_stem, GivenFrames, named_folders, save_first_frames
from deeplandscape.media import from_uint8, save_image, to_uint8

FEW = TwoStreamConfig(side=32, evaluations=3, grid=8)


@pytest.fixture(scope="module")
def clip(): return render_clip(int(scene_seeds("val", 2, 1)), 16, 48, 64).images


@pytest.fixture(scope="module")
def photo(): return render_clip(int(scene_seeds("test", 3, 1)), 1, 48, 64).images[0]


def test_two_streams_keep_the_interface(photo, clip):
    video = check_animator(lambda: TwoStream([("a", clip)], FEW, "embedded", "dis"), photo)
    land = (video.masks[1] < 0.5).expand(3, -1, -1)
    assert (video.frames[:, land] == to_uint8(photo)[land]).all()
    check_animator(lambda: TwoStream((), FEW, "embedded", "dis"), clip)


def test_a_photograph_without_sky_stays(photo):
    land = lambda x: torch.eye(3)[:1, :, None, None].expand(len(x), 3, *x.shape[-2:])
    video = TwoStream([], FEW, "embedded", segment=land).fit(photo).animate(4)
    assert (video.frames == to_uint8(photo)).all() and video.report["note"] == "no sky"


def test_speed_reads_the_reference_at_larger_steps(photo, clip):
    long = torch.cat([clip, clip, clip])
    system = TwoStream([("a", long)], FEW, "embedded", "dis").fit(photo)
    steps = [system.animate(24, speed=s).report["every so many frames of it"] for s in (0.5, 1, 2)]
    assert steps == [1, 2, 4]
    assert system.animate(200).report["slower than the reference"] > 1


def test_grams_see_only_their_region():
    x, region = torch.randn(1, 4, 16, 16), torch.zeros(1, 1, 16, 16)
    region[..., :8, :] = 1
    changed = x.clone()
    changed[..., 8:, :] = 100
    torch.testing.assert_close(gram_inside(x, region), gram_inside(changed, region))
    assert not torch.allclose(gram_inside(x, 1 - region), gram_inside(changed, 1 - region))
    torch.testing.assert_close(gram_inside(x, torch.ones_like(region))[0].trace(), x.square().mean())


def test_gradients_are_those_of_finite_differences(clip):
    torch.manual_seed(0)
    still, config = clip[:1, :, :32, :32], TwoStreamConfig(side=32, grid=8, frames=3)
    loss = two_stream_loss(still, torch.ones(1, 1, 32, 32), clip[:3, :, :32, :32], config)
    x = (still + 0.2 * torch.randn(3, 3, 32, 32)).requires_grad_()
    way = torch.randn_like(x)
    slope = float((torch.autograd.grad(loss(x), x)[0] * way).sum())
    with torch.no_grad(): found = float(loss(x + 1e-3 * way) - loss(x - 1e-3 * way)) / 2e-3
    assert found == pytest.approx(slope, rel=0.1)


def test_the_minimum_moves_as_the_reference():
    """The same sky, drifting to the right and to the left: what is made drifts as it did."""
    big = render_clip(int(scene_seeds("val", 2, 1)), 1, 96, 96).images
    drift = lambda v: torch.cat([big[..., 8:40, 30 - v * n:62 - v * n] for n in range(8)])
    region, config = torch.ones(1, 1, 32, 32), TwoStreamConfig(side=32, frames=8, evaluations=25, grid=4)
    right = two_stream_loss(drift(1)[:1], region, drift(1), config)
    left = two_stream_loss(drift(1)[:1], region, drift(-1), config)
    made = synthesise(right, drift(1)[:1])[0]
    with torch.no_grad(): assert right.terms(made)[1] < 0.8 * left.terms(made)[1]


def test_interpolation_keeps_the_given_frames(clip):
    times = torch.tensor([0.0, 1.0, 1.5, 2.0])
    between = between_frames(clip[:3], times)
    torch.testing.assert_close(between[[0, 1, 3]], clip[:3], atol=1e-5, rtol=0)
    assert between.isfinite().all()
    assert torch.equal(between_frames(clip[:1], times), clip[:1].expand(4, -1, -1, -1))


def test_motion_energies_begin_as_opponents():
    """Stripes that drift one way have more of its energy, without any training."""
    net = MotionEnergy()
    at = torch.arange(64.0)
    stripes = lambda shift: torch.cos(torch.pi / 4 * (at - shift)).expand(1, 1, 64, 64)
    with torch.no_grad():
        ways = [net.levels(torch.cat([stripes(0), stripes(s)], 1))[0][:, :2].mean((0, 2, 3)) for s in (2, -2)]
    assert (ways[0][0] - ways[0][1]) * (ways[1][0] - ways[1][1]) < 0
    assert begin_mixture(32, 10).shape == (10, 32) and begin_mixture(5, 7).shape == (7, 5)


def test_scenes_come_again_turned_otherwise():
    first, again = (turned_batch("train", step, 2, 48, 32, 0, scenes=4) for step in (0, 2))
    assert not torch.equal(first[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(again, turned_batch("train", 2, 2, 48, 32, 0, scenes=4)))


def test_the_motion_maps_of_a_grid_are_means(clip):
    from deeplandscape.baselines.motion_energy import load_motion_energy
    net, frames = load_motion_energy(), clip[:2, :, :32, :32]
    with torch.no_grad(): fine, coarse = motion_maps(net, frames), motion_maps(net, frames, 4)
    torch.testing.assert_close(F.avg_pool2d(fine[:, :64], 4), coarse[:, :64], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in COMPARED if n != "AL + style"])
def test_every_row_can_be_made(name, photo, clip):
    settings = SystemSettings((("a", clip),), "smoke")
    entry = find_system(name)
    system = entry.build(settings).fit(photo)
    assert system.animate(3).frames.shape == (3, 3, 48, 64) and set(CARD) <= set(system.card())
    assert entry.trained and entry.licence and entry.videos >= 1


def test_sizes_are_known_to_all():
    for size in SYSTEM_SIZES:
        for name in ("SG", "TS", "LDS"): COMPARED[name].build(SystemSettings(size=size))
    with pytest.raises(InputError, match="no appearance network"):
        COMPARED["AL + style"].build(SystemSettings())


def test_given_frames(tmp_path):
    clips = scene_clips(2, 32, last=40, every=20)
    names = [p.name for p in save_first_frames(clips, tmp_path / "photos")]
    assert names == ["landscape_0.png", "water_0.png"]
    given = GivenFrames("A", tmp_path / "A", 20)
    with pytest.raises(InputError, match="no folder"): given.check(clips)
    for clip in clips:
        for n in range(3):
            (tmp_path / "A" / file_stem(clip.name)).mkdir(parents=True, exist_ok=True)
            save_image(from_uint8(clip.frames[n]), tmp_path / "A" / file_stem(clip.name) / f"{n}.png")
    assert all(torch.equal(given.check(clips)(clip).videos[0], clip.frames) for clip in clips)
    smaller = F.interpolate(clips[0].frames.float(), size=(16, 16), mode="area") / 127.5 - 1
    for n in range(3): save_image(smaller[n], tmp_path / "A" / "landscape_0" / f"{n}.png")
    assert given(clips[0]).videos.shape == (1, 3, 3, 32, 32)
    (tmp_path / "A" / "landscape_0" / "2.png").unlink()
    with pytest.raises(InputError, match="has 2 frames; either 41"): given(clips[0])
    (tmp_path / "A" / "water_0").rename(tmp_path / "A" / "lake")
    with pytest.raises(InputError, match="no video of water_0"): given.check(clips)


@pytest.mark.parametrize("wrong", ["A", "=B", "A="])
def test_folders_have_names(wrong):
    with pytest.raises(InputError, match="NAME=FOLDER"): named_folders([wrong])
    with pytest.raises(InputError, match="Two folders"): named_folders(["A=b", "A=c"])

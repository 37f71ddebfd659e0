"""SinGAN against closed forms, training that stops and goes on, faults in one sentence."""
import math
from dataclasses import replace

import pytest
import torch
from animator_contract import check_animator
from torch import nn

from deeplandscape.baselines import singan, singan_training
from deeplandscape.baselines.singan import (
    animate_pyramid, fit_pyramids, noise_walk, photo_key, SinGAN, single)
from deeplandscape.baselines.singan_training import (
    gradient_penalty, load_training, PatchNet, pyramid_sizes, run_training, save_training,
    singan_generator_loss, SinGANConfig, SMALL_SINGAN, train_iteration, Training)
from deeplandscape.cli import app
from deeplandscape.commands.options import run_app
from deeplandscape.core import InputError, item_generator
from deeplandscape.data.scenes import render
from deeplandscape.data.weather import scene_seeds
from deeplandscape.media import read_video, save_image

TINY = SinGANConfig(largest=24, coarsest=16, scales=2, width=4, iterations=6, steps=2)


@pytest.fixture(scope="module")
def photos(): return render(scene_seeds("val", 4, 2), None, 24).images


@pytest.mark.parametrize("height, width", [(256, 256), (180, 320), (1080, 1920), (90, 64), (31, 47)])
@pytest.mark.parametrize("config", [SinGANConfig(), SMALL_SINGAN, SinGANConfig(coarsest=25)])
def test_sizes_of_a_pyramid(height, width, config):
    sizes = pyramid_sizes(height, width, config)
    finest = min(1, config.largest / max(height, width)) * torch.tensor([height, width])
    assert max(sizes[-1]) <= config.largest and abs(torch.tensor(sizes[-1]) - finest).max() <= 1
    assert min(sizes[0]) in (config.coarsest, config.coarsest + 1), "rounded up"
    r = (config.coarsest / min(sizes[-1])) ** (1 / (len(sizes) - 1))
    for below, above in zip(sizes, sizes[1:]):
        for a, b in zip(below, above): assert b * r - 1 <= a <= b * r + 1
    if config.scales is None:
        assert r >= config.factor - 1e-9, "no step is larger than the factor"
        fewer = max(1, len(sizes) - 2)
        assert (config.coarsest / min(sizes[-1])) ** (1 / fewer) < config.factor or len(sizes) == 2
    else: assert len(sizes) == config.scales


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_what_a_score_sees(layers):
    net = PatchNet(3, 4, 1, layers).begin(item_generator(0)).eval()
    x = torch.randn(1, 3, 25, 25, generator=item_generator(1)).requires_grad_()
    scores = net(x)
    assert scores.shape[-1] == 25 - 2 * layers
    scores[0, 0, 4, 6].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert seen.min(0).values.tolist() == [4, 6]
    assert seen.max(0).values.tolist() == [4 + 2 * layers, 6 + 2 * layers]


def test_the_penalty_of_a_square():
    "The gradient of a sum of squares is 2 x at each place."
    critic = lambda x: x.pow(2).sum(1, keepdim=True)
    x = torch.randn(1, 3, 5, 7, generator=item_generator(0))
    at_each = (2 * x).norm(dim=1)
    assert float(gradient_penalty(critic, x)) == pytest.approx(float((at_each - 1).pow(2).mean()), rel=1e-5)
    whole = (2 * x / 35).norm()
    assert float(gradient_penalty(critic, x, "picture")) == pytest.approx(float((whole - 1) ** 2), rel=1e-5)


def test_photographs_do_not_touch_each_other(photos):
    t = Training(photos, TINY)
    train_iteration(t)
    fake = t.G([t.G.noise(0, item_generator(3))])
    singan_generator_loss(t.D.requires_grad_(True), fake, fake, t.real[0], TINY).backward()
    own = t.G.nets[0].body[0].weight
    other = torch.autograd.grad(t.G([t.G.noise(0, item_generator(3))])[:, :3].sum(), own)[0]
    assert own.grad.abs().sum() > 0 and other[:4].abs().sum() > 0 and not other[4:].any()


def test_the_spread_of_the_walk():
    "A stationary autoregression of second order: phi = 0.9 * 1.9 and -0.9 * 0.9, steps of 0.9 * 0.1."
    a, b = 0.1, 0.9
    p, q, s = (1 - a) * (1 + b), -(1 - a) * b, (1 - a) * (1 - b)
    expected = math.sqrt(s * s * (1 - q) / ((1 + q) * ((1 - q) ** 2 - p * p)))
    walk = noise_walk(torch.full((1, 3, 120, 120), 2.0), item_generator(0), a, b)
    found = [next(walk) for _ in range(120)][-1]
    # z* = 2 draws the mean back to itself: the noise has mean zero
    assert float(found.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(found.std()) == pytest.approx(expected, rel=0.02)


def test_scales_below_the_start_do_not_move(photos):
    t = run_training(Training(photos[:1], replace(TINY, scales=3, largest=24, coarsest=12)))
    seen = []
    t.G.at, at = (lambda k, x, z: seen.append((k, x)) or at(k, x, z)), t.G.at
    list(animate_pyramid(t.G, 4, start=2))
    below = [x for k, x in seen if k == 2]
    assert len(below) == 4 and all(torch.equal(x, below[0]) for x in below[1:])


@pytest.mark.parametrize("stopped", [1, 5, 6, 7, 11])
def test_stopped_and_continued(photos, tmp_path, stopped):
    whole = run_training(Training(photos, TINY), every=1)
    path = tmp_path / "t.safetensors"
    run_training(Training(photos, TINY), path, dict(a=1), every=1, most=stopped)
    later = Training(photos, TINY)
    load_training(later, path, dict(a=1))
    run_training(later, every=1)
    for a, b in zip(whole.G.state_dict().values(), later.G.state_dict().values()): assert torch.equal(a, b)
    for a, b in zip(whole.D.state_dict().values(), later.D.state_dict().values()): assert torch.equal(a, b)
    assert whole.history == later.history
    with pytest.raises(InputError, match="belongs to another training"):
        load_training(Training(photos, TINY), path, dict(a=2))


def test_a_killed_fit_goes_on(photos, tmp_path, monkeypatch):
    one = [photos[:1], photos[1:]]
    wanted = fit_pyramids(one, TINY)
    calls, real = [], singan_training.train_iteration
    def dies(t):
        calls.append(1)
        if len(calls) == 9: raise KeyboardInterrupt
        return real(t)
    monkeypatch.setattr(singan_training, "train_iteration", dies)
    with pytest.raises(KeyboardInterrupt): fit_pyramids(one, TINY, folder=tmp_path)
    assert [p.name.endswith("_partial.safetensors") for p in tmp_path.iterdir()] == [True]
    made = fit_pyramids(one, TINY, folder=tmp_path)
    assert len(calls) == 9 + 6, "the first scale was not trained again"
    for a, b in zip(wanted, made):
        for x, y in zip(a.parameters(), b.parameters()): assert torch.equal(x, y)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"singan_{photo_key(p, TINY, 0)}.safetensors" for p in one)
    fit_pyramids(one[::-1], TINY, folder=tmp_path)
    assert len(calls) == 15, "what is kept is not learnt again"


def test_one_of_several(photos):
    t = run_training(Training(photos, TINY))
    noises = [t.G.noise(k, item_generator(7, k)) for k in range(2)]
    both = t.G(noises)
    for p in range(2):
        assert torch.allclose(single(t.G, p)(noises), both[:, 3 * p:3 * p + 3], rtol=1e-3, atol=1e-4)


def test_as_a_system(photos): check_animator(lambda: SinGAN(TINY, start=1), photos[0])


def test_faults(photos, tmp_path):
    key = photo_key(photos[:1], TINY, 0)
    fit_pyramids([photos[:1]], TINY, folder=tmp_path)
    kept = tmp_path / f"singan_{key}.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(InputError, match=key): fit_pyramids([photos[:1]], TINY, folder=tmp_path)
    t = Training(photos[:1], TINY)
    save_training(t, kept, {})
    with pytest.raises(InputError, match="is not a pyramid of SinGAN"):
        fit_pyramids([photos[:1]], TINY, folder=tmp_path)
    with pytest.raises(InputError, match="diverged"):
        run_training(Training(photos[:1], replace(TINY, rate=float("inf"))))
    with pytest.raises(InputError, match="no pyramid above"): SinGAN(TINY).fit(torch.zeros(3, 16, 200))
    with pytest.raises(InputError, match="2 scales can move from scale 0 to 1"):
        SinGAN(TINY, start=2).fit(photos[0]).animate(2)


def test_the_command(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, photo in zip("ab", photos): save_image(photo, tmp_path / f"{name}.png")
    brief = "--size 24 --width 4 --iterations 2 --start 1 --frames 3 --kept kept --device cpu".split()
    assert run_app(app, ["singan", "a.png", "b.png", "-o", "videos", *brief]) == 0
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == ["a.mp4", "b.mp4"]
    assert len(read_video(tmp_path / "videos" / "a.mp4")[0]) == 3
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert run_app(app, ["singan", "a.png", "--dry-run", *brief]) == 0
    assert "2 iterations of each scale" in capsys.readouterr().out
    for wrong in (["a.png", "--start", "9"], ["none.png"], ["a.png", "-o", "x.txt"],
                  ["a.png", "--iterations", "0"], ["a.png", "--scales", "1"], ["a.png", "--kept", "a.png"]):
        assert run_app(app, ["singan", *wrong[:1], *brief, "-o", "y.mp4", *wrong[1:]]) == 2, wrong
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("deeplandscape: "), lines
        assert not (tmp_path / "y.mp4").exists()


def test_the_published_sizes():
    with torch.device("meta"):
        G = singan.Pyramid(pyramid_sizes(256, 256, SinGANConfig()))
    assert [net.body[0].out_channels for net in G.nets] == [32] * 4 + [64] * 4 + [128] * 2
    assert all(len([m for m in net.body if isinstance(m, nn.Conv2d)]) == 5 for net in G.nets)

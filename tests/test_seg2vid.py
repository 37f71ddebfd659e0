"""Seg2Vid's sizes, warp and losses against closed forms; its trials go on where they were."""
from dataclasses import replace

import pytest
import torch
from animator_contract import check_animator

from deeplandscape.baselines import convergence
from deeplandscape.baselines.convergence import order_of, run_trial, run_trials, Trial, TRIALS, window_clips
from deeplandscape.baselines.seg2vid import (
    flow_smoothness, predict_frames, Seg2Vid, seg2vid_losses, Seg2VidConfig, Seg2VidNet, warp_back)
from deeplandscape.cli import app
from deeplandscape.commands.options import run_app
from deeplandscape.core import InputError, item_generator

SMALLEST = Seg2VidConfig(32, 32, 4, 4, 8)
BRIEF = Trial(steps=4, batch=4, scenes=2, net=SMALLEST)


@pytest.fixture()
def net():
    torch.manual_seed(0)
    return Seg2VidNet(SMALLEST).eval()


@pytest.fixture(scope="module")
def clips(): return window_clips("val", 2).float() / 255


@pytest.mark.parametrize("height, width", [(128, 256), (128, 128), (64, 128)])
def test_the_published_sizes(height, width):
    with torch.device("meta"):
        net = Seg2VidNet(Seg2VidConfig(height, width))
        clip, noise = torch.zeros(2, 5, 3, height, width), torch.zeros(8, 3, height, width)
        mean, _ = net.motion(clip)
        made = net(clip[:, 0], mean, noise)
    assert mean.shape == (2, 1024) and made["refined"].shape == (8, 3, height, width)
    assert made["flow"].shape == made["back"].shape == (8, 2, height, width)
    assert made["seen"].shape == made["seen_back"].shape == (8, 1, height, width)


@pytest.mark.parametrize("dx, dy", [(3, 0), (0, -2), (-4, 5), (0, 0)])
def test_a_warp_by_whole_pixels(dx, dy):
    x = torch.rand(1, 3, 20, 24, generator=item_generator(0))
    flow = torch.tensor([2 * dx / 24, 2 * dy / 20]).view(1, 2, 1, 1).expand(1, 2, 20, 24)
    moved = torch.roll(x, (dy, dx), (2, 3))
    assert torch.allclose(warp_back(x, flow)[..., 5:-5, 5:-5], moved[..., 5:-5, 5:-5], atol=1e-4)


def test_smoothness_against_the_definition():
    g = item_generator(0)
    flow, picture = torch.rand(2, 2, 6, 7, generator=g), torch.rand(2, 3, 6, 7, generator=g) / 256
    total = 0.0
    for b in range(2):
        for y in range(6):
            for x in range(7):
                for v in range(max(0, y - 2), min(6, y + 3)):
                    for u in range(max(0, x - 2), min(7, x + 3)):
                        colour = 256**2 * (picture[b, :, y, x] - picture[b, :, v, u]).pow(2).sum()
                        near = torch.exp(-colour - (y - v) ** 2 - (x - u) ** 2)
                        total += near * 128 * (flow[b, :, y, x] - flow[b, :, v, u]).pow(2).sum()
    assert float(flow_smoothness(flow, picture)) == pytest.approx(float(total) / (2 * 6 * 7), rel=1e-4)


def test_smoothness_of_the_first_frame_only(net, clips):
    rough = seg2vid_losses(net, clips[:2], [0, 1])
    other = clips[:2].clone()
    decoder = net.decoder.forward
    def shaken(photo, z):
        flow, back, seen = decoder(photo, z)
        shake = torch.rand(flow.shape, generator=item_generator(5))
        shake[::4] = 0                                         # not the first of four frames
        return flow + shake, back, seen
    net.decoder.forward = shaken
    first, every = (seg2vid_losses(net, other, [0, 1], smooth_all=s)["smooth"] for s in (False, True))
    assert torch.allclose(first, rough["smooth"]) and every > 10 * first


def test_the_divergence_is_that_of_the_normal_distribution(net, clips):
    mean, variance = net.motion(clips[:3])
    q = torch.distributions.Normal(mean, torch.exp(variance / 2))
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = 0.1 * torch.distributions.kl_divergence(q, p).sum() / 1000
    found = seg2vid_losses(net, clips[:3], [0, 1, 2])["kl"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-8)


def test_longer_than_four_frames(net, clips):
    frames = predict_frames(net, clips[:1, 0], 10, seed=3)
    assert torch.equal(frames[0], clips[0, 0]) and len(frames) == 10
    assert torch.equal(predict_frames(net, clips[:1, 0], 6, seed=3), frames[:6])


def test_as_a_system(net, clips): check_animator(lambda: Seg2Vid(net), 2 * clips[0, 0] - 1)


def test_every_clip_once_in_each_round():
    for trial in TRIALS.values():
        seen = torch.cat([order_of(step, 32, trial) for step in range(8)]).view(2, 32)
        assert all(sorted(row.tolist()) == list(range(32)) for row in seen)
        assert torch.equal(seen[0], seen[1]) != trial.shuffled


def test_a_killed_trial_goes_on(tmp_path, monkeypatch):
    whole = run_trial("whole", BRIEF, tmp_path / "a", every=1)
    calls, real = [], convergence.seg2vid_losses
    def dies(*args):
        calls.append(1)
        # in the third step: a step has one loss, a look at the other clips four
        if len(calls) == 11: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(convergence, "seg2vid_losses", dies)
    with pytest.raises(KeyboardInterrupt): run_trial("whole", BRIEF, tmp_path / "b", every=1)
    calls.extend([0] * 100)
    assert run_trial("whole", BRIEF, tmp_path / "b", every=1) == whole


def test_results_keep_what_is_done(tmp_path, monkeypatch):
    out, made = tmp_path / "r.json", []
    def fake(name, trial, folder):
        made.append(name)
        return {"settings": repr(trial), "other clips": {"error": 1.0}}
    monkeypatch.setattr(convergence, "run_trial", fake)
    trials = {"a": BRIEF, "b": replace(BRIEF, seed=1)}
    run_trials(tmp_path / "t", out, {"b": trials["b"]})
    run_trials(tmp_path / "t", out, trials)
    assert made == ["b", "a"]
    run_trials(tmp_path / "t", out, trials | {"a": replace(BRIEF, seed=2)})
    assert made == ["b", "a", "a"]


def test_faults(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in (Seg2VidConfig(40, 64), Seg2VidConfig(16, 64)):
        with pytest.raises(InputError, match="multiples of 16"): Seg2VidNet(config)
    (tmp_path / "not.safetensors").write_text("no network")
    with pytest.raises(InputError, match="not.safetensors"): Seg2Vid(tmp_path / "not.safetensors")
    for wrong in (["--only", "nothing"], ["-o", "x.txt"], ["-o", "no/x.json"]):
        assert run_app(app, ["seg2vid-trials", *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["not.safetensors"]

"""Super-resolution: the guided filter against a direct solve, the network against a written-out one, the
blend's parts, exact resuming."""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from deeplandscape.averages import running_mean
from deeplandscape.core import InputError
from deeplandscape.metrics.similarity import masked_ssim
from deeplandscape.data.scenes import render_clip
from deeplandscape.data.weather import scene_seeds
from deeplandscape.photo.superres import Blend, blend, guided_filter, guided_upsample, GuidedFilter
from deeplandscape.photo.esrgan import PatchCritic, PatchCriticConfig, relativistic_loss
from deeplandscape.photo.layouts import from_esrgan
from deeplandscape.photo.pairs import PairSet, prepare_pairs, scene_source
from deeplandscape.photo.rrdb import bicubic, load_superres, reduce, RRDBNet, save_superres, SuperresConfig
from deeplandscape.photo.superres_training import (
    SHARP, SuperresPair, SuperresPhase, SuperresTraining, train_superres)


def noise(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def solve_directly(guide, source, radius, eps):
    """Ridge regression in each window by least squares on an augmented system, then the mean of the lines
    that cover a pixel."""
    c, h, w = guide.shape
    I, p = guide.double().numpy(), source.double().numpy()
    a, b, q = np.zeros((h, w, c)), np.zeros((h, w)), np.zeros((h, w))
    windows = {(y, x): np.s_[max(0, y - radius):y + radius + 1, max(0, x - radius):x + radius + 1]
               for y in range(h) for x in range(w)}
    for (y, x), (rows, columns) in windows.items():
        inside = I[:, rows, columns].reshape(c, -1).T
        n = len(inside)
        system = np.vstack([np.hstack([inside, np.ones((n, 1))]),
                            np.hstack([np.sqrt(n * eps) * np.eye(c), np.zeros((c, 1))])])
        found = np.linalg.lstsq(system, np.concatenate([p[rows, columns].ravel(), np.zeros(c)]),
                                rcond=None)[0]
        a[y, x], b[y, x] = found[:c], found[c]
    for (y, x), window in windows.items():
        q[y, x] = a[window].reshape(-1, c).mean(0) @ I[:, y, x] + b[window].mean()
    return torch.from_numpy(q)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("radius, eps", [(1, 1e-2), (2, 1e-3), (3, 1e-1), (20, 1e-2)])
def test_guided_filter_is_the_least_squares_solution(channels, radius, eps):
    guide, source = noise(1, channels, 9, 12, seed=1), noise(1, 2, 9, 12, seed=2)
    found = guided_filter(guide, source, radius, eps)
    for k in range(2):
        assert_close(found[0, k].double(), solve_directly(guide[0], source[0, k], radius, eps), rtol=1e-3,
                     atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 17), st.integers(4, 17), st.integers(1, 25), st.floats(-1, 1), st.integers(0, 99))
def test_constants_stay_and_guides_explain_themselves(h, w, radius, level, seed):
    guide = noise(1, 3, h, w, seed=seed)
    assert_close(guided_filter(guide, torch.full((1, 1, h, w), level), radius, 1e-3),
                 torch.full((1, 1, h, w), level), rtol=1e-4, atol=1e-4)
    line = 0.7 * guide[:, :1] - 0.2 * guide[:, 2:] + 0.1
    assert (guided_filter(guide, line, max(2, radius), 1e-6) - line).abs().max() < 5e-3


def test_guided_filter_is_linear_in_the_source_and_items_are_apart():
    guide, p, q = noise(1, 3, 16, 16, seed=3), noise(1, 3, 16, 16, seed=4), noise(1, 3, 16, 16, seed=5)
    filtered = GuidedFilter(guide, 4)
    assert_close(filtered(0.3 * p + 2 * q), 0.3 * filtered(p) + 2 * filtered(q), rtol=1e-3, atol=1e-4)
    assert_close(filtered(torch.cat([p, q])), torch.cat([filtered(p), filtered(q)]))


def test_a_flat_guide_gives_means_of_means():
    source = noise(1, 2, 12, 10)
    smooth = running_mean(running_mean(source, 2), 2)
    assert_close(guided_filter(torch.zeros(1, 3, 12, 10), source, 2), smooth, rtol=1e-4, atol=1e-5)


def test_running_mean_counts_what_is_there():
    assert_close(running_mean(torch.ones(1, 1, 5, 300), 40), torch.ones(1, 1, 5, 300))
    x = noise(1, 1, 30, 30)
    assert_close(running_mean(x, 3), F.avg_pool2d(x, 7, 1, 3, count_include_pad=False), rtol=1e-4, atol=1e-6)


def test_fitting_at_the_small_size_recovers_a_change_of_light():
    photo = noise(1, 3, 32, 32) * 0.5
    small = reduce(photo, (8, 8))
    light = lambda x: 0.6 * x - 0.2
    assert (guided_upsample(photo, small, light(small), 2, 1e-6) - light(photo)).abs().max() < 1e-2


def written_out(state, blocks, x):
    "ESRGAN's generator by its formulas."
    c = lambda name, v: F.conv2d(v, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    lrelu = lambda v: torch.where(v > 0, v, 0.2 * v)
    first = trunk = c("conv_first", (x + 1) / 2)
    for i in range(blocks):
        start = trunk
        for j in (1, 2, 3):
            name, seen = f"RRDB_trunk.{i}.RDB{j}.conv", trunk
            for k in (1, 2, 3, 4): seen = torch.cat([seen, lrelu(c(f"{name}{k}", seen))], 1)
            trunk = trunk + 0.2 * c(f"{name}5", seen)
        trunk = start + 0.2 * trunk
    v = first + c("trunk_conv", trunk)
    for name in ("upconv1", "upconv2"):
        v = lrelu(c(name, v.repeat_interleave(2, -1).repeat_interleave(2, -2)))
    return 2 * c("conv_last", lrelu(c("HRconv", v))) - 1


def random_net(config=SuperresConfig(8, 2, 4), seed=0):
    torch.manual_seed(seed)
    net = RRDBNet(config).eval()
    for p in net.parameters(): p.data = torch.randn(p.shape) * 0.1
    return net


def test_network_equals_its_formulas():
    net, x = random_net(), noise(2, 3, 7, 5)
    with torch.no_grad(): assert_close(net(x), written_out(net.state_dict(), 2, x), rtol=1e-4, atol=1e-4)


def test_saving_and_foreign_files(tmp_path):
    net = random_net()
    save_superres(tmp_path / "sr.safetensors", net)
    assert torch.equal(load_superres(tmp_path / "sr.safetensors")(noise(1, 3, 6, 6)), net(noise(1, 3, 6, 6)))
    assert torch.equal(from_esrgan(net.state_dict())(noise(1, 3, 6, 6)), net(noise(1, 3, 6, 6)))
    with pytest.raises(InputError): from_esrgan({"some.weight": torch.zeros(3)})
    (tmp_path / "foreign.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError): load_superres(tmp_path / "foreign.safetensors")


@pytest.fixture(scope="module")
def evening():
    clip = render_clip(int(scene_seeds("test", 0)[0]), frames=2, height=128, light_from=15.0, light_to=18.5)
    return clip.images[0], clip.static[0], reduce(clip.images, (32, 32)).clamp(-1, 1), clip.images


@pytest.mark.parametrize("fit", ["large", "small"])
def test_blend_brings_detail_and_keeps_the_light(evening, fit):
    photo, static, frames, truth = evening
    out = blend(frames, photo, static, fit=fit, chunk=1)
    enlarged = bicubic(frames).clamp(-1, 1)
    score = lambda x: masked_ssim(x[1:], truth[1:], static[None]).item()
    assert score(out) > score(enlarged) + 0.05
    moving = (Blend(photo, static).static == 0).expand_as(out)
    assert torch.equal(out[moving], enlarged[moving])
    error = lambda x: ((x - truth[1]).abs() * static).sum()
    assert error(out[1]) < error(enlarged[1]) and error(out[1]) < error(photo)


def test_the_first_frame_is_the_photo_where_the_animation_is_wrong(evening):
    photo, static, frames, _ = evening
    wrong = bicubic(reduce(frames, (16, 16)), (32, 32)).clamp(-1, 1)
    inside = Blend(photo, static).static == 1
    first = lambda **o: ((blend(wrong[:1], photo, static, **o) - photo).abs() * inside).sum()
    assert first(fit="small", reference=wrong[0]) < 0.3 * first(fit="small")


def test_sizes_need_not_be_multiples(evening):
    photo, static, frames, _ = evening
    for size in ((100, 128), (128, 97), (150, 150)):
        large = bicubic(photo[None], size)[0]
        assert blend(frames, large, static).shape == (2, 3, *size)
    with pytest.raises(InputError): Blend(photo, static, fit="medium")


def test_pairs_depend_on_seed_split_and_step_only(tmp_path):
    blurred = lambda small: bicubic(reduce(small, (5, 5)), small.shape[-2:]).clamp(-1, 1)
    options = dict(source=scene_source(40), degrade=blurred, pairs=4, batch=2, seed=7)
    one, other = (PairSet(prepare_pairs(tmp_path / name, **options)) for name in "ab")
    for split in ("train", "val"):
        a, b = (pairs.draw(2, 32, 0.5, seed=3)(split, 3) for pairs in (one, other))
        assert all(torch.equal(x, y) for x, y in zip(a, b)) and a[0].shape == (2, 3, 8, 8)
    assert not torch.equal(one.draw(2, 32, seed=4)("train", 3)[1], one.draw(2, 32, seed=3)("train", 3)[1])
    with pytest.raises(InputError, match="multiple of 4"): one.draw(1, 30)


class Noise:
    "Pairs of noise; stops when a batch of a number is drawn for training."
    def __init__(self, stop=None): self.stop, self.drawn = stop, 0

    def draw(self, batch, patch, plain, seed):
        def drawn(split, step):
            self.drawn += split == "train"
            if self.drawn == self.stop: raise KeyboardInterrupt
            large = noise(batch, 3, patch, patch, seed=step + 1000 * (split == "val"))
            return reduce(large, (patch // 4, patch // 4)), large
        return drawn


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_resumed_training_equals_uninterrupted(tmp_path, stop):
    phase = SuperresPhase(3, 1e-3, "cosine", batch=2, patch=16)
    config = SuperresTraining(SuperresConfig(4, 1, 2, residual=True), PatchCriticConfig(16, 4), phase,
                              replace(SHARP, steps=3, batch=2, patch=16), "mobilenet", validate_every=1)
    whole = train_superres(Noise(), config)
    with pytest.raises(KeyboardInterrupt): train_superres(Noise(stop), config, tmp_path)
    resumed = train_superres(Noise(), config, tmp_path, resume=True)
    for one, other in zip(whole, resumed):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    with pytest.raises(InputError, match="another run"):
        train_superres(Noise(), replace(config, seed=1), tmp_path, resume=True)


def test_one_step_on_both_losses_is_a_step_of_each():
    "The gradients of the sum are those of the generator's loss and of the discriminator's, each by itself."
    torch.manual_seed(0)
    net, critic = RRDBNet(SuperresConfig(4, 1, 2)), PatchCritic(PatchCriticConfig(16, 4))
    small, large = noise(3, 3, 4, 4), noise(3, 3, 16, 16, seed=1)
    phase = replace(SHARP, patch=16, perceptual=0.0)
    sum(SuperresPair(net, critic).losses(small, large, phase, None).values()).backward()
    made = net(small)
    real, fake = critic(large), critic(made)
    for_net = 1e-2 * F.l1_loss(made, large) + 5e-3 * relativistic_loss(fake, real)
    for_critic = relativistic_loss(real, critic(made.detach()))
    for loss, part in ((for_net, net), (for_critic, critic)):
        parameters = list(part.parameters())
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, retain_graph=True)):
            assert_close(p.grad, g, rtol=1e-3, atol=1e-6)

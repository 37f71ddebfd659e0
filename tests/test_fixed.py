"""Networks with fixed weights are the same functions as the networks they were made of, gradients included,
and the inversion through them the same inversion."""
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from deeplandscape.core import fitting_threads, use_threads
from deeplandscape.model.encoder import Encoder, EncoderConfig
from deeplandscape.model.generator import Generator, GeneratorConfig, Latents
from deeplandscape.perception.network import Perception, perceptual_loss, PerceptualLoss
from deeplandscape.photo import inversion
from deeplandscape.photo.fixed import fixed_generator, fixed_perception, FixedGenerator, FixedPerception
from deeplandscape.photo.animation import animate
from deeplandscape.photo.inversion import fine_tune, invert, PREVIEW, Settings, State, Target
from small_models import write_weights

CONFIG = GeneratorConfig(resolution=32, z_dim=8, w_dim=24, channels=(16, 12, 8, 6))


def generator(config):
    "All weights random, noise strengths and gates included."
    torch.manual_seed(5)
    G = Generator(config).eval().requires_grad_(False)
    for name, p in G.named_parameters():
        if "noise" in name or "gate" in name: p.normal_(0, 0.3)
    return G


@pytest.mark.parametrize("changes", [{}, dict(dynamic_gate=True), dict(static_maps=False),
                                     dict(static_maps=False, dynamic_gate=True), dict(resolution=8)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_generator(changes, batch):
    config = replace(CONFIG, **changes)
    G, latents = generator(config), Latents.sample(config, range(batch))
    W = torch.randn(batch, 2 * config.levels, config.w_dim)
    inputs = [t.requires_grad_() for t in (W, *(latents.S_st if config.static_maps else []), *latents.S_dyn)]
    found = []
    for net in (G, fixed_generator(G)):
        image = net.synthesis(W, latents.S_st, latents.S_dyn)
        g = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
        found.append([image, *torch.autograd.grad(image, inputs, g)])
    assert isinstance(fixed_generator(G), FixedGenerator)
    for ours, plain in zip(*found):
        assert_close(ours, plain, rtol=1e-3, atol=1e-4 * float(plain.detach().abs().max()))


@pytest.mark.parametrize("size", [8, 24, 64])
def test_perception(size):
    "Also where a side becomes odd on the way down, and with batch normalisation."
    torch.manual_seed(1)
    net = Perception().eval().requires_grad_(False)
    net.scale.uniform_(0.5, 2)
    plain = PerceptualLoss(net.features, "random")
    fixed, x, y = (fixed_perception(plain), torch.rand(2, 3, size, size).requires_grad_(),
                   torch.rand(2, 3, size, size))
    assert isinstance(fixed, FixedPerception) and net.config.normalised
    a, b = fixed.compare(x, fixed.features(y)), plain.distance(plain.features(x), plain.features(y))
    assert_close(a, b, rtol=1e-3, atol=1e-4)
    weight = torch.tensor([1.0, -2.0])
    g, h = (torch.autograd.grad((d * weight).sum(), x)[0] for d in (a, b))
    assert (g - h).abs().mean() < 1e-3 * h.abs().mean()


@pytest.mark.parametrize("variant", ["EOI", "EOIFS"])
def test_the_inversion_is_the_same(variant, monkeypatch):
    """A few steps by both ways; Adam turns rounding into steps where a gradient is next to nothing, so most
    numbers are compared, not all."""
    config = replace(CONFIG, dynamic_gate=True)
    G, E = generator(config), Encoder(EncoderConfig("small", 4, 24, hidden=16)).eval()
    photo, mask = torch.rand(2, 3, 32, 32) * 2 - 1, torch.zeros(2, 1, 32, 32)
    mask[..., 16:, :] = 1
    run = lambda: invert(G, photo, variant, E, mask, perceptual_loss("embedded"),
                         Settings(iterations=6, tune_iterations=4, S_lr=0.25))
    ours = run()
    monkeypatch.setattr(inversion, "fixed_generator", lambda net: net)
    monkeypatch.setattr(inversion, "fixed_perception", lambda loss: loss)
    plain = run()
    assert_close(torch.stack([h["loss"] for h in ours.history if h["phase"] == "latents"]),
                 torch.stack([h["loss"] for h in plain.history if h["phase"] == "latents"]),
                 rtol=1e-2, atol=1e-4)
    for a, b in zip((ours.W, *ours.S_st, *ours.S_dyn), (plain.W, *plain.S_st, *plain.S_dyn)):
        assert ((a - b).abs() < 1e-2).float().mean() > 0.95
    again = invert(G, photo, variant, E, mask, perceptual_loss("embedded"),
                   Settings(iterations=6, tune_iterations=4, S_lr=0.25))
    assert torch.equal(again.W, plain.W)  # to the bit, when the way is the same


def test_fused_fine_tuning_is_the_plain_one():
    "Losses of each step, against torch's own loop over the plain modules."
    G, latents = generator(replace(CONFIG, dynamic_gate=True)), Latents.sample(CONFIG, [4])
    state, settings = State(torch.randn(1, 8, 24), latents.S_st, latents.S_dyn), Settings(tune_iterations=5)
    target, losses, plain = Target(torch.rand(1, 3, 32, 32), perceptual_loss("embedded")), [], []
    tuned = fine_tune(G, state, target, settings, lambda iteration, loss: losses.append(float(loss)))
    copy = generator(replace(CONFIG, dynamic_gate=True))
    weights = [p.requires_grad_() for part in (copy.blocks, copy.to_rgb) for p in part.parameters()]
    optimiser = torch.optim.Adam(weights, lr=settings.tune_lr)
    for _ in range(5):
        loss = target.loss(copy.synthesis(state.W, state.S_st, state.S_dyn), settings.tune_perceptual)
        optimiser.zero_grad(); loss.sum().backward(); optimiser.step()
        plain.append(float(loss))
    assert losses == pytest.approx(plain, rel=1e-3) and losses[-1] < losses[0]
    assert not any(b.fused for b in tuned.blocks) and all(p.is_contiguous() for p in tuned.parameters())


def test_small_networks_get_one_thread_and_a_choice_stands(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, seen = torch.get_num_threads(), []
    G, photo = generator(CONFIG), torch.rand(1, 3, 32, 32)
    run = lambda: invert(G, photo, "MO", perceptual=perceptual_loss("embedded"), settings=Settings(
                             iterations=1), callback=lambda **_: seen.append(torch.get_num_threads()))
    try:
        use_threads(); torch.set_num_threads(2); run()
        assert seen == [1] and torch.get_num_threads() == 2
        use_threads(2); run()                                            # as --threads 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2"); use_threads(); run()
        assert seen == [1, 2, 2]
        with pytest.raises(RuntimeError), fitting_threads(1.0): raise RuntimeError
        assert torch.get_num_threads() == 2
    finally: monkeypatch.undo(); use_threads(); torch.set_num_threads(before)


def test_a_preview_is_small_short_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(write_weights(tmp_path)))
    sky = lambda x: torch.stack([(torch.arange(x.shape[2]) >= x.shape[2] // 2).float(),
                                 (torch.arange(x.shape[2]) < x.shape[2] // 2).float(), torch.zeros(
                                     x.shape[2])])[None, :, :, None].expand(len(x), -1, -1, x.shape[3])
    video = animate(torch.rand(3, 300, 400), "3h", seconds=0.2, fps=20,
                    models={"segment": sky}, light="none", preview=True)
    assert video.film.shape[1:] == (3, 192, 256) and "first look" in video.report["preview"]
    assert len(video.inversion.history) == PREVIEW.iterations + PREVIEW.tune_iterations

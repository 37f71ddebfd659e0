"The benchmark compares like with like, counts what is really called, and judges by its goals."
import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from deeplandscape.experiments import benchmark
from deeplandscape.cli import app
from deeplandscape.core import InputError
from deeplandscape.model.discriminators import Discriminator
from deeplandscape.model.generator import Generator, GeneratorConfig, Latents

TINY = GeneratorConfig(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 8))


@pytest.fixture
def nets():
    torch.manual_seed(0)
    return Generator(TINY), Discriminator(TINY), Discriminator(TINY, frames=2)


def test_the_transcription_is_the_same_function(nets):
    "Outputs and gradients of the plain networks and ours, at each level and inside a transition."
    G, *discriminators = nets
    for level, alpha in (0, 1.0), (1, 0.3), (2, 1.0):
        latents = Latents.sample(TINY, [1, 2], level)
        found = []
        for form in benchmark.plain, benchmark.ours:
            net = form(G)
            image = net(latents, level, alpha)
            image.square().sum().backward()
            found.append([image, *(p.grad for p in net.parameters() if p.grad is not None)])
        for a, b in zip(*found, strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        image = found[0][0].detach()
        for D, x in zip(discriminators, (image, torch.stack([image, image.flip(0)], dim=1))):
            torch.testing.assert_close(benchmark.plain(D)(x, level, alpha),
                                       benchmark.ours(D)(x, level, alpha), rtol=1e-3, atol=1e-3)


def test_the_transcription_leaves_the_original_alone(nets):
    G = nets[0]
    benchmark.plain(G)
    assert not any(isinstance(m, (benchmark.PlainUp, benchmark.PlainAdaIN)) for m in G.modules())


def test_steps_do_the_same(nets):
    "One step of the plain networks and one of ours end at the same weights."
    G, D, _ = nets
    latents, real = Latents.sample(TINY, range(4)), torch.rand(4, 3, 16, 16)
    after = []
    for form in benchmark.plain, benchmark.ours:
        pair = form(G), form(D)
        benchmark.training_step(*pair, latents, real)(True)
        after.append([p.detach().contiguous() for net in pair for p in net.parameters()])
    # Adam's first step is a sign
    moved = [((a - b).abs() < 2e-4).float().mean().item() for a, b in zip(*after)]
    assert min(moved) > 0.8 and sum(moved) / len(moved) > 0.97


def test_work_is_counted_with_gradients():
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    forward = benchmark.count_flops(lambda: F.conv2d(x, weight, padding=1))
    assert forward == 2 * 9 * 4 * 6 * 64
    assert benchmark.count_flops(lambda: F.conv2d(x, weight, padding=1).sum().backward()) == 3 * forward
    assert benchmark.count_flops(lambda: torch.zeros(3) + 1) == 0


def test_turns_are_taken():
    order = []
    times = benchmark.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2,
                                  warm=1)
    assert order == ["a", "b"] * 3 and set(times) == {"a", "b"}


def test_goals():
    forward = pd.DataFrame(dict(seconds=[3.0, 2.0], times_floor=[2.0, 1.6]), index=["plain", "ours"])
    rows = ["plain, R1", "ours, R1", "ours, lazy R1", "ours, bfloat16, lazy R1"]
    steps = pd.DataFrame(dict(seconds=[13.0, 10.0, 6.5, 5.0], images_per_s=[1.0, 2.0, 4.0, 5.0]), index=rows)
    loader = pd.DataFrame(dict(images_per_s=[3.0, 100.0]), index=["single images", "pairs"])
    inversion = pd.DataFrame(dict(times_faster=[1.0, 1.2, 1.8]), index=["plain", "between", "ours"])
    found = benchmark.speed_verdicts(forward, steps, loader, inversion)
    assert found.measured.round(3).tolist() == [1.5, 1.6, 1.3, 2.0, 2.6, 0.75, 1.8]
    assert found.reached.tolist() == [True, False, True, False, True, False, True]


def test_inversions_do_the_same_and_ours_does_less(nets):
    """The released program's loop and ours make the same iteration; gradients for G and features again are
    work."""
    class Pixels:
        name = "pixels"
        def features(self, x): return F.conv2d(x, torch.ones(4, 3, 3, 3) / 27, padding=1)
        def distance(self, a, b): return (a - b).abs().flatten(1).mean(1)
    photo, (G, *_) = torch.rand(1, 3, 16, 16), nets
    states = [benchmark.inversion_step(G, photo, Pixels(), slow, slow) for slow in (True, False)]
    for _ in range(3): a, b = (step() for step in states)
    torch.testing.assert_close(a.W, b.W, rtol=1e-3, atol=1e-3)
    for x, y in zip(a.S_st + a.S_dyn, b.S_st + b.S_dyn):
        torch.testing.assert_close(x, y, rtol=1e-2, atol=1e-2)
    table = benchmark.inversion_speed(TINY, batch=2, repeats=1, perceptual=Pixels())
    assert (table.GFLOP.diff()[1:3] < 0).all() and len(table) == 4


@pytest.mark.slow
def test_command(tmp_path):
    out = tmp_path / "bench.json"
    options = ["--width", "small", "--forward-pixels", "16", "--step-pixels", "8", "--repeats", "1",
               "--device", "cpu"]
    threads = torch.get_num_threads()
    try: result = CliRunner().invoke(app, ["bench", *options, "--out", str(out)])
    finally: torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    saved = json.loads(out.read_text())
    assert (saved["about"]["width"] == "small"
            and len(saved["tables"]["goals"]["rows"]) == len(benchmark.GOALS))
    assert saved["tables"]["forward"]["difference"] < 1e-3


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(InputError): benchmark.benchmark("wide", device="cpu")
    result = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / "bench.txt")])
    assert isinstance(result.exception, InputError) and not list(tmp_path.iterdir())

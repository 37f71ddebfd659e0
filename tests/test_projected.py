"""Discriminators on frozen features: exact resume, processes that share a batch, what learns and what stays,
gradients against autograd."""
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from lightning.fabric import Fabric
from torch.testing import assert_close

from deeplandscape.core import InputError, item_generator, use_threads
from deeplandscape.data.prepare import prepare_store
from deeplandscape.data.store import Store
from deeplandscape.files import load_tensors
from deeplandscape.model.features import load_features
from deeplandscape.model.generator import Generator, GeneratorConfig, Latents
from deeplandscape.model.layers import blur, Normalise, StyledMaps
from deeplandscape.model.projected import (Mixing, ProjectedConfig, ProjectedDiscriminators,
                                           append_group_deviation, augment, join)
from deeplandscape.training.loop import launch, train, train_step
from deeplandscape.training.losses import Sources
from deeplandscape.training.networks import Networks
from deeplandscape.training.projected import hinge
from deeplandscape.training.schedule import at, PROFILES, TrainConfig, stage, total_images
from deeplandscape.training.widening import begin_enlarged, continues

TESTS = Path(__file__).resolve().parent
GROWN = TrainConfig(  # 32 px against the paper's discriminators, 64 px against the frozen features
    GeneratorConfig(resolution=64, z_dim=16, w_dim=16, channels=(8, 8, 8, 8, 8), dynamic_gate=True),
first_resolution=32, batch=((4, 16),),
    fade_images=((8, 16),), stable_images=((8, 32),), total_batches=None, shared=(0.7, 0.1), cool=32,
    projected=ProjectedConfig(width=8, warm=16))


def shares(images):
    "A segmentation that tests can do without a network: the lower half is land."
    land = torch.zeros_like(images[:, :1])
    land[..., images.shape[-2] // 2:, :] = 1
    return torch.cat([land, 1 - land, torch.zeros_like(land)], dim=1)


@pytest.fixture(scope="module", autouse=True)
def arithmetic():
    threads = torch.get_num_threads()
    use_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare_store(tmp_path_factory.mktemp("store"), scenes=8, resolutions=(32, 64)).path


@pytest.fixture(scope="module")
def sources(store): return Sources([(Store(store), 1.0)], [(Store(store), 1.0)])


def run(out, sources, fabric=None, **options):
    return train(GROWN, sources, out, fabric=fabric, segment=shares,
                 checkpoint_every=16, sample_every=10**6, live=False, **options)


def state(out): return load_tensors(out / "checkpoint.safetensors")[0]


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_resume_is_exact_across_the_change_of_discriminators(sources, tmp_path, precision):
    fabric = launch("cpu", precision=precision)
    run(tmp_path / "whole", sources, fabric)
    for until in 32, 48, 64, 80, None: run(tmp_path / "parts", sources, fabric, until=until)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert any(k.startswith("P/64") for k in whole) and any(k.startswith("adam_P") for k in whole)


def test_the_configuration_survives_its_json():
    for config in GROWN, PROFILES["overnight"]:
        assert TrainConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_two_processes_take_the_step_of_one(store, tmp_path):
    "Gradients of shares of the batch, averaged, are those of the whole batch, but for the order of sums."
    script = tmp_path / "share.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(TESTS)!r}); "
                      f"from test_projected import share; share({str(store)!r}, {str(tmp_path)!r})")
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    subprocess.run([sys.executable, str(script)], check=True, env=environment, timeout=600)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    subprocess.run(start, check=True, env=environment, timeout=600)
    one, two = (load_tensors(tmp_path / f"{n}.safetensors")[0] for n in (1, 2))
    for name in one:  # rounding passes through the kinks of the frozen network, so not to the last digits
        a, b = one[name].flatten(), two[name].flatten()
        assert (a - b).norm() <= 0.03 * a.norm() + 1e-5, name


def share(store, out):
    "One step with pairs from the same start; what the gradients are (called in processes of their own)."
    from deeplandscape.files import save_tensors
    use_threads(1)
    world = int(os.environ.get("WORLD_SIZE", 1))
    fabric = Fabric(accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    # Adam would make steps of rounding errors
    still = dict(lr=((4, 1e-9),), projected=replace(GROWN.projected, warm=0))
    nets = Networks(replace(GROWN, pairs=(1.0, 1.0), crops=1.0, **still), fabric)
    nets.segment = shares
    source = Sources([(Store(store), 1.0)], [(Store(store), 1.0)])
    entered = total_images(GROWN) - 48
    train_step(nets, source, entered, 0)
    found = {f"G/{n}": p.grad for n, p in nets.G.named_parameters() if p.grad is not None}
    found |= {f"P/{n}": p.grad for n, p in nets.P.named_parameters() if p.grad is not None}
    assert len(found) > 60
    if fabric.is_global_zero:
        save_tensors(Path(out) / f"{world}.safetensors", {k: v.contiguous() for k, v in found.items()})


@pytest.mark.parametrize("wrong", [-1.0, ((128, 1.0), (64, 2.0)), ((64, -1.0),), ((64.5, 1.0),), (), "much"])
def test_weights_of_the_structure_that_are_no_table_are_refused(wrong):
    with pytest.raises(InputError, match="projected.structure"):
        replace(GROWN, projected=replace(GROWN.projected, structure=wrong))


def test_weights_of_the_structure_that_begin_too_late_are_refused():
    with pytest.raises(InputError, match="says nothing about 64 px"):
        replace(GROWN, projected=replace(GROWN.projected, structure=((128, 1.0),)))


def test_the_weight_of_the_structure_is_known_at_each_resolution():
    table = ProjectedConfig().structure
    assert [at(table, r) for r in (4, 64, 128, 256)] == [10, 10, 8, 8]
    assert ProjectedConfig(structure=5).structure == ((4, 5),)          # one number: at each resolution


def test_a_batch_that_makes_no_groups_is_refused():
    with pytest.raises(InputError, match="multiple of 8"):
        Networks(replace(GROWN, batch=((4, 12),)), Fabric(accelerator="cpu", devices=1))


def test_what_is_frozen_stays_and_what_learns_moves(sources):
    nets = Networks(replace(GROWN, pairs=(1.0, 1.0)), Fabric(accelerator="cpu", devices=1))
    nets.segment = shares
    entered = total_images(GROWN) - 48
    train_step(nets, sources, entered, 0)
    buffers = lambda: {n: b.clone() for n, b in [*nets.features.named_buffers(), *nets.P.named_buffers()]
                       if "_u" not in n and "_v" not in n}
    # the hinge may cancel in it exactly
    kernels = lambda: [p for n, p in nets.P.named_parameters() if not n.endswith("last.bias")]
    frozen, G, heads = buffers(), nets.G.to_rgb[4].weight.clone(), [p.clone() for p in kernels()]
    for step in range(1, 6): train_step(nets, sources, entered + 16, step)
    assert all(torch.equal(frozen[n], b) for n, b in buffers().items()
               if "mixing" in n or n in dict(nets.features.named_buffers()))
    assert not torch.equal(G, nets.G.to_rgb[4].weight)
    assert all(not torch.equal(a, b) for a, b in zip(heads, kernels()))
    assert all(p.requires_grad for p in nets.P.parameters())


@pytest.mark.parametrize("static_maps, gate", [(True, True), (True, False), (False, True)])
def test_a_new_level_begins_with_the_enlarged_picture(static_maps, gate):
    """Without noise and with all values above zero it is the enlargement, sharpened as AdaIN restores the
    spread; as used it is close to it, colours stay, and the bias can still learn."""
    config = GeneratorConfig(16, z_dim=16, w_dim=16, channels=(8, 12, 12), static_maps=static_maps,
                             dynamic_gate=gate)
    assert [continues(config, level) for level in range(3)] == [False, False, True]
    L = Latents.sample(config, range(100, 108))
    inner = lambda images: images[..., 2:-2, 2:-2].flatten()    # `blur` pads with zeros, not with the bias
    for begun in {}, dict(spread=0.0, strength=0.0, below=0.0), None:
        torch.manual_seed(3)
        G = Generator(config)
        if begun is not None: begin_enlarged(G, 2, **begun)
        with torch.no_grad(): small, large = G(L, level=1), G(L, level=2)
        pair = torch.stack([inner(large), inner(blur(F.interpolate(small, scale_factor=2)))])
        alike = torch.corrcoef(pair)[0, 1]
        assert (alike < 0.5) if begun is None else (alike > 0.9)
        if begun is not None: assert_close(large.mean((2, 3)), small.mean((2, 3)), rtol=0, atol=1e-5)
        if begun == {}:
            G(L).square().mean().backward()
            assert all(G.blocks[2].conv.bias.grad.abs() > 0)


def test_the_heads_learn_alone_at_first(sources):
    nets = Networks(GROWN, Fabric(accelerator="cpu", devices=1))
    nets.segment = shares
    logs, _ = train_step(nets, sources, total_images(GROWN) - 48, 0)
    assert not any(name.startswith("G_") for name in logs)
    logs, _ = train_step(nets, sources, total_images(GROWN) - 32, 1)
    assert "G_features" in logs


def test_heads_separate_what_differs():
    "On a fixed set of bright and dark images the hinge loss falls to less than half within forty steps."
    torch.manual_seed(0)
    net = load_features()
    D = ProjectedDiscriminators(ProjectedConfig(width=16), net.channels, net.strides, 64)
    bright, dark = torch.rand(8, 3, 64, 64), torch.rand(8, 3, 64, 64) - 1
    D.mixing.calibrate(net(torch.cat([bright, dark])))
    optimizer = torch.optim.Adam(D.parameters(), 2e-3, betas=(0.0, 0.99))
    losses = []
    for _ in range(40):
        kinds = [hinge(D.still_logits(D.mixing(net(x)), x), real)
                 for x, real in ((bright, True), (dark, False))]
        loss = sum(sum(k.values()) for k in kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([32, 48, 64]))
def test_the_gradient_of_the_features_is_autograds(seed, size):
    torch.manual_seed(seed)
    net = load_features(taps=(0, 3))
    def plain(x):
        x, found = F.conv2d(F.pad(x, (0, 1, 0, 1)), *net.stem, stride=2).clamp(0, 6), []
        for i, ((dw, db), (pw, pb)) in enumerate(net.blocks):
            strided = i in (1, 3)
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)) if strided else x, dw, db,
                         stride=1 + strided, padding=int(not strided), groups=len(dw)).clamp(0, 6)
            x = F.conv2d(x, pw, pb).clamp(0, 6)
            if i in net.taps: found.append(x)
        return found
    x = (torch.rand(1, 3, size, size) * 2 - 1).requires_grad_()
    weights = [torch.randn_like(m) for m in plain(x)]
    a, b = (torch.autograd.grad(sum((m * w).sum() for m, w in zip(f(x), weights)), x)[0]
            for f in (net, plain))
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2), st.sampled_from([4, 8]))
def test_styled_maps_equal_the_separate_steps(seed, kinds, size):
    torch.manual_seed(seed)
    given = [torch.randn(*s).requires_grad_()
             for s in ((2, 6, size, size), (2, kinds, size, size), (kinds, 6), (2, 6, 1, 1), (2, 6, 1, 1))]
    plain = lambda x, maps, a, gamma, beta: Normalise.apply(
        F.leaky_relu(x + torch.einsum("bkhw,kc->bchw", maps, a), 0.2), gamma, beta)
    ours, theirs = (torch.autograd.grad(f(*given).sin().sum(), given)
                    for f in (lambda *t: StyledMaps.apply(*t), plain))
    for a, b in zip(ours, theirs): assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max())


def test_pairs_are_unordered_and_groups_do_not_compare_the_frames_of_a_pair():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 4)
    swapped = x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    assert torch.equal(join(x), join(swapped))
    twins = torch.randn(4, 3, 4, 4).repeat_interleave(2, 0)  # both frames alike: the scenes still differ
    assert append_group_deviation(twins)[:, 3].min() > 0.1
    # frames differ, scenes do not
    one_scene = torch.randn(1, 2, 3, 4, 4).expand(4, -1, -1, -1, -1).flatten(0, 1)
    assert append_group_deviation(one_scene)[:, 3].max() < 1e-3


def test_augmentation_is_the_same_for_both_frames_and_reaches_the_gradient():
    torch.manual_seed(0)
    x, numbers = torch.rand(4, 3, 32, 32).requires_grad_(), torch.rand(4, 6)
    y = augment(x, numbers, 1.0)
    assert torch.equal(augment(x[:1].detach(), numbers[:1], 1.0), y[:1])
    gradient, = torch.autograd.grad(y.sum(), x)
    assert set(gradient.unique().tolist()) <= {0.0, 1.0} and 0.3 < gradient.mean() < 0.95
    assert torch.equal(augment(x, numbers, 0.0), x)


def test_mixing_depends_on_every_scale():
    torch.manual_seed(0)
    mixing, maps = Mixing([3, 4], [2, 2]), [torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)]
    before = mixing(maps)
    after = mixing([maps[0], maps[1] + 1])
    assert not torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    # the coarse scale does not see the fine one
    assert torch.equal(mixing([maps[0] + 1, maps[1]])[1], before[1])

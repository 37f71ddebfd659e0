"""Our networks with released-layout weights compute what the authors' program computes (arrays of
tests/goldens/parity_seed1.npz).

The weights are numbers by rule, not the released ones: tensor `name` is RandomState((crc32(name) + seed) %
2**31).standard_normal(shape), but for counters and the fixed blur kernels; the encoder's are scaled so that
its features stay finite."""
import json
import math
import os
import pickle
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplandscape.core import InputError
from deeplandscape.files import load_tensors
from deeplandscape.model.encoder import Encoder, EncoderConfig
from deeplandscape.model.generator import Latents, load_generator, mix_styles
from deeplandscape.model.official import (
    approximator_from_official, discriminator_from_official, encoder_from_official, generator_from_official,
    import_official, read_official)

GOLDENS = Path(__file__).parent / "goldens"
SEED = 1


@pytest.fixture(scope="module")
def arrays(): return np.load(GOLDENS / "parity_seed1.npz")


@pytest.fixture(scope="module")
def layout(): return json.loads((GOLDENS / "official_layout.json").read_text())


def normal(seed, shape):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype("float32"))


def by_rule(shapes):
    "A state dict of the given names and shapes."
    state, line = {}, torch.tensor([1.0, 2.0, 1.0])
    for name, shape in shapes.items():
        blur = (name.endswith("weight_flip")
                or (name.endswith(".weight") and len(shape) == 4 and shape[1:] == [1, 3, 3]))
        if "num_batches" in name: state[name] = torch.tensor(0)
        elif blur: state[name] = (line.outer(line) / 16).expand(shape).clone()
        else: state[name] = normal((zlib.crc32(name.encode()) + SEED) % 2**31, shape)
    return state


def scaled(state):
    "The encoder's extra rule."
    for name, v in state.items():
        if "num_batches" in name: continue
        if "running_var" in name: state[name] = v.abs() + 0.5
        elif "bn" in name or "downsample.1" in name:
            state[name] = 0.1 * v + (1.0 if name.endswith("weight") else 0.0)
        elif v.dim() == 4: state[name] = v / math.sqrt(v[0].numel())
        elif v.dim() == 2: state[name] = v / math.sqrt(v.shape[1])
    return state


def differs(ours, array):
    array = torch.from_numpy(array)
    assert ours.shape == array.shape
    return ((ours - array).norm() / array.norm()).item()


def maps(batch, levels):
    "Static and dynamic maps of the rule."
    return [[normal(SEED + 100 * i + k, (batch, 1, 4 * 2**i, 4 * 2**i)) for i in range(levels)]
            for k in (1, 2)]


# The networks


@pytest.fixture(scope="module")
def G(layout): return generator_from_official(by_rule(layout["g_running"]), 256)


@pytest.fixture(scope="module")
def w(G):
    with torch.no_grad(): return G.mapping(normal(SEED + 11, (2, 512)))


def test_mapping(w, arrays):
    assert torch.equal(normal(SEED + 11, (2, 512)), torch.from_numpy(arrays["z"]))
    assert differs(w, arrays["w"]) < 1e-5


@pytest.mark.parametrize("level, alpha, batch, every", [(3, 1.0, 2, 1), (4, 0.5, 2, 1), (6, 1.0, 1, 4)])
@torch.no_grad()
def test_images(G, w, arrays, level, alpha, batch, every):
    image = G.synthesis(w[:batch], *maps(batch, level + 1), level=level, alpha=alpha)
    assert differs(image[..., ::every, ::every], arrays[f"img_step{level}_alpha{alpha}"]) < 1e-4


@torch.no_grad()
def test_style_mixing(G, w, arrays):
    mixed = mix_styles(w[:1], w[1:], crossover=3, levels=7)
    assert differs(G.synthesis(mixed, *maps(1, 5), level=4), arrays["img_step4_mix34"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("frames, network, prefix",
                         [(1, "discriminator", "d"), (2, "n_frames_discriminator", "nfd")])
@torch.no_grad()
def test_scores(layout, arrays, frames, network, prefix):
    D = discriminator_from_official(by_rule(layout[network]), 256, frames)
    for level, alpha in (3, 1.0), (4, 0.5), (6, 1.0):
        images = normal(SEED + 6 + frames, (2, frames, 3, 4 * 2**level, 4 * 2**level))
        assert (differs(D(images, level=level, alpha=alpha), arrays[f"{prefix}_step{level}_alpha{alpha}"])
                < 1e-4)
        if frames == 1 and level == 3:
            assert torch.equal(D(images[:, 0], level=level), D(images, level=level))


@torch.no_grad()
def test_lighting(layout, arrays):
    A = approximator_from_official(by_rule(layout["approximator"]))
    w, z_dyn, c = normal(SEED + 9, (4, 516)).split([512, 3, 1], dim=1)
    assert differs(A(w, z_dyn, c), arrays["mlp_out"]) < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_encoder(layout, arrays):
    E = encoder_from_official(scaled(by_rule(layout["encoder"])))
    assert E.config == EncoderConfig(head="layernorm")
    W = E(normal(SEED + 12, (1, 3, 128, 128)).clamp(-1, 1))
    assert W.shape == (1, 14, 512)
    for half in 0, 1: assert differs(W[:, half::2], arrays["enc"]) < 1e-4


# The layout


def test_every_released_tensor_has_its_place(layout):
    "The number of weights in use is the released program's."
    with torch.device("meta"):
        states = {name: {n: torch.zeros(s) for n, s in shapes.items()} for name, shapes in layout.items()}
        count = lambda net: sum(p.numel() for p in net.parameters())
        # counted with the finest to-RGB only
        for resolution, official in (256, 26_083_395), (512, 26_176_803):
            G = generator_from_official(states["g_running"], resolution)
            assert count(G) - count(G.to_rgb[:-1]) == official
        assert count(approximator_from_official(states["approximator"])) == 5_600_144
        assert count(encoder_from_official(states["encoder"])) == 72_309_312
        assert count(discriminator_from_official(states["discriminator"], 1024)) == 25_444_737
        assert count(discriminator_from_official(states["n_frames_discriminator"], 1024, 2)) == 25_439_649


# Files


def small_generator():
    "A complete little generator in the released layout, by way of the full names."
    shapes = json.loads((GOLDENS / "official_layout.json").read_text())["g_running"]
    few = {1: 1, 3: 3, 4: 4}
    size = lambda name, k, n: few.get(n, (2 if "adain" in name and k == 0 else 1) * 4) if k < 2 else n
    return {name: torch.randn([size(name, k, n) for k, n in enumerate(shape)])
            for name, shape in shapes.items()}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_checkpoint_to_safetensors(tmp_path, new):
    G_state = small_generator()
    parameter = torch.nn.Parameter(torch.randn(3))
    file = {"generator": {f"module.{name}": t for name, t in G_state.items()},
            "g_running": OrderedDict(G_state), "alpha": 0, "step": 4,
            "resolution": 64, "iteration": 9, "used_samples": 7,
            "g_optimizer": {"state": {0: {"exp_avg": parameter}}, "param_groups": [{"lr": 0.1}]}}
    torch.save(file, tmp_path / "10.model", _use_new_zipfile_serialization=new)
    found = read_official(tmp_path / "10.model")
    assert (set(found["generator"]) == set(G_state)
            and all(torch.equal(found["g_running"][n], t) for n, t in G_state.items()))
    said = "\n".join(import_official(tmp_path / "10.model", tmp_path / "out"))
    assert "alpha = 0" in said and "generator.safetensors" in said
    G = load_generator(tmp_path / "out" / "generator.safetensors")
    card = json.loads((tmp_path / "out" / "generator.json").read_text())
    assert (G.config.resolution, G.meta["iterations"], card["source"]) == (64, 10, "10.model")
    latents, direct = Latents.sample(G.config, [1]), generator_from_official(G_state, 64)
    assert torch.equal(G(latents), direct(latents))
    tensors, _ = load_tensors(tmp_path / "out" / "generator.safetensors")
    assert torch.equal(tensors["blocks.4.up.weight"],
                       G_state["generator.progression.4.conv1.1.conv.weight_orig"])


class Hostile:
    def __reduce__(self): return os.system, ("echo ran > ran",)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_hostile_file_is_refused(tmp_path, new, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"g_running": {"a": torch.zeros(2)}, "extra": Hostile()}, "bad.model",
               _use_new_zipfile_serialization=new)
    with pytest.raises(InputError, match=r"(posix|nt)\.system"): read_official("bad.model")
    with pytest.raises(InputError): import_official("bad.model", "out")
    assert not Path("ran").exists() and not Path("out").exists()


@pytest.mark.parametrize("attack", [b"cbuiltins\nexec\n(S'open(\"ran\",\"w\")'\ntR.",
                                    b"\x80\x02cbuiltins\ngetattr\n.",
                                    b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
                                    b"\x80\x02ctorch.hub\nload\n.", b"\x80\x02cnumpy\nload\n.",
                                    b"\x80\x02r\xff\xff\xff\x7f.", b"\x80\x02.", b"\x80"])
def test_crafted_pickles_are_refused(tmp_path, attack):
    path = tmp_path / "crafted.pth"
    path.write_bytes(attack)
    with pytest.raises(InputError): read_official(path)
    with_magic = (pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2)
                  + pickle.dumps({"little_endian": True}, 2) + attack)
    path.write_bytes(with_magic)
    with pytest.raises(InputError): read_official(path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_truncated_file_is_one_sentence(tmp_path, new):
    path = tmp_path / "whole.model"
    torch.save({"g_running": {f"t{k}": torch.randn(50) for k in range(20)}}, path,
               _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    for part in 3, len(data) // 4, len(data) // 2, len(data) - 1:
        path.write_bytes(data[:part])
        with pytest.raises(InputError) as error: read_official(path)
        assert "\n" not in str(error.value)


def test_what_is_no_released_file(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pth").write_text("not a pickle")
    for name in "other.pt", "text.pth", "missing.pth", ".":
        with pytest.raises(InputError): read_official(tmp_path / name)


def test_a_module_with_foreign_classes_is_refused(tmp_path):
    torch.save(Encoder(EncoderConfig("small", 2, 8, 16)), tmp_path / "ours.pth")
    with pytest.raises(InputError, match="deeplandscape.model.encoder.Encoder"):
        read_official(tmp_path / "ours.pth")

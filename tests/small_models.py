"""Small networks with random weights, as files: for tests of everything that loads the shipped weights, where
only the working counts."""
from dataclasses import asdict

import torch

from deeplandscape.files import save_tensors
from deeplandscape.model.encoder import Encoder, EncoderConfig, save_encoder
from deeplandscape.model.generator import Generator, GeneratorConfig, save_generator
from deeplandscape.model.approximator import Approximator, LightingConfig, save_lighting
from deeplandscape.perception.masks import Segmenter, SegmenterConfig
from deeplandscape.perception.network import Perception

CONFIG = GeneratorConfig(resolution=32, z_dim=8, w_dim=24, channels=(16, 16, 12, 8))


def small_generator(noise=0.3):
    "A generator whose pictures depend on all four latents."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        G = Generator(CONFIG).eval().requires_grad_(False)
    for name, p in G.named_parameters():
        if "noise" in name: p.fill_(noise)
        if "to_rgb" in name and name.endswith("weight"): p.mul_(0.3)
    return G


def write_weights(folder):
    "Files of the names that the weight registry looks for; to the segmentation, everything is sky."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        E = Encoder(EncoderConfig("small", CONFIG.levels, CONFIG.w_dim, hidden=16)).eval()
        perception = Perception().eval()
        small = SegmenterConfig(8, ((8, 1), (8, 2), (8, 1), (8, 2), (8, 1), (8, 2), (8, 1), (8, 1)), 8, 8)
        segmenter = Segmenter(small).eval()
        A = Approximator(LightingConfig(CONFIG.w_dim, CONFIG.z_dyn_dim, depth=2, change=True)).eval()
        torch.nn.init.normal_(A.out.weight, std=0.3)
    with torch.no_grad():
        for network in perception, segmenter: network.classes.bias.copy_(torch.tensor([-50.0, 50.0, -50.0]))
    save_generator(folder / "generator.safetensors", small_generator())
    save_encoder(folder / "encoder.safetensors", E)
    save_lighting(folder / "lighting.safetensors", A)
    save_tensors(folder / "perception.safetensors", perception.state_dict(), dict(config={}))
    save_tensors(folder / "segmenter.safetensors", segmenter.state_dict(), dict(config=asdict(small)))
    return folder

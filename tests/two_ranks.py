"""One training step, alone or as one of several processes: python two_ranks.py STORE CHECKPOINT OUT FRAMES
(torchrun starts it for each)."""
import os
import sys

import torch
from lightning.fabric import Fabric

from deeplandscape.data.store import Store
from deeplandscape.model.generator import GeneratorConfig
from deeplandscape.training.schedule import stage, TrainConfig
from deeplandscape.core import item_generator
from deeplandscape.files import save_tensors
from deeplandscape.training.losses import Sources, discriminator_step, generator_step
from deeplandscape.training.networks import Networks
from deeplandscape.training.loop import load_checkpoint, pack, train

CONFIG = TrainConfig(GeneratorConfig(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 8)), batch=((4, 8),),
                     fade_images=((8, 32),), stable_images=((8, 32),), total_batches=None, shared=(0.5, 0.2))


def start():
    torch.set_num_threads(1)
    world = int(os.environ.get("WORLD_SIZE", 1))
    fabric = Fabric(accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    return fabric


def main(store, checkpoint, out):
    fabric = start()
    source = Sources([(Store(store), 1.0)], [(Store(store), 1.0)])
    found = {}
    for frames in 1, 2:
        nets = Networks(CONFIG, fabric)
        counters = load_checkpoint(checkpoint, nets)
        now = stage(CONFIG, counters["seen"])
        for key in range(2):  # of pairs: once with generated pairs, once with crops
            generator = item_generator(0, key)
            discriminator_step(nets, source, now, frames, generator)
            name = f"{frames}_{key}"
            found |= {f"{name}/grad_D/{i}": p.grad.clone()
                      for i, p in enumerate(nets.D[frames - 1].parameters()) if p.grad is not None}
            generator_step(nets, now, frames, generator)
            found |= {f"{name}/grad_G/{i}": p.grad.clone()
                      for i, p in enumerate(nets.G.parameters()) if p.grad is not None}
            found |= {f"{name}/{k}": v for k, v in pack(nets).items() if not k.startswith("adam")}
    if fabric.is_global_zero: save_tensors(out, found)
    path = f"{out}.run"
    train(CONFIG, source, path, until=24, checkpoint_every=8, sample_every=24, fabric=fabric)
    fabric.barrier()


if __name__ == "__main__": main(*sys.argv[1:])

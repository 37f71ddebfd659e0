"""A small study for tests: clips drawn here in a second, a plan over them, and votes by hand."""
import numpy as np
import torch

from deeplandscape.media import save_image, write_video
from deeplandscape.study.material import scrambled_clip, write_clip
from deeplandscape.study.plan import StudyRules, make_study, write_study

SYSTEMS = ("Real", "Ours (EOIF)", "Ours (EOIFS)")


def small_clip(system, item, frames, side=48):
    "A bar that wanders over a coloured ground, (frames, 3, side, side) uint8; each system has its own speed."
    rng = np.random.default_rng([item, SYSTEMS.index(system)])
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    ground = np.stack([120 + 100 * np.sin(x / 9 + a) * np.cos(y / 7 + a) for a in rng.uniform(0, 6, 3)])
    speed = 0.2 + 0.3 * SYSTEMS.index(system)
    clip = np.stack([np.where(np.abs((x - speed * t) % side - side / 2) < 4, 250, ground)
                     for t in range(frames)])
    return torch.from_numpy(np.clip(clip, 0, 255).astype(np.uint8))


def write_material(folder, items=4, frames=100):
    "Material of three systems under `folder`; photographs are the first frames."
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    clips, listed = [], {}
    for i in range(items):
        name, photo = f"scene {i}", folder / f"clips/photo{i}.png"
        for system in SYSTEMS:
            clip = small_clip(system, i, frames)
            if system == "Real": save_image(clip[0], photo)
            for shown, mixed in [(clip, False)] + ([(scrambled_clip(clip, i), True)]
                                                   if system == "Real" else []):
                entry = write_clip(shown, folder)
                clips += [dict(system=system, item=name, setting="", frames=n, scrambled=mixed, **entry)
                          for n in (100, 200)]
        listed[name] = dict(file=f"clips/photo{i}.png", sha256="")
    return dict(clips=clips, items=listed)


def small_study(folder, parts=("short",), items=4, frames=100, **rules):
    "Material and plan.json under `folder`; the plan."
    material = write_material(folder, items, frames)
    plan = make_study(material, parts, StudyRules(**(dict(assessors=5, questions=6, gold=1) | rules)))
    write_study(plan, folder / "plan.json")
    return plan


def a_vote(plan, assessor, question, answer="left", **changed):
    return dict(plan=plan["hash"], assessor=assessor, question=question, answer=answer, seconds=5.0,
                waited=1.2, plays=1, stalls=0, by="keyboard", width=1400, machine=False) | changed

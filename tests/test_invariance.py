"What must not matter: the batch, the order. Same seed, same bits. Interruptions are in test_training.py."
import json

import pytest
import torch

from deeplandscape.data.store import Store
from deeplandscape.data.prepare import prepare_store
from deeplandscape.model.generator import Generator, GeneratorConfig, Latents
from deeplandscape.training.schedule import ablation, ABLATIONS, PROFILES, stage, TrainConfig
from deeplandscape.training.losses import Sources
from deeplandscape.training.loop import train

TINY = TrainConfig(GeneratorConfig(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 8)), batch=((4, 4),),
                   fade_images=((8, 24),),
                   stable_images=((8, 24),), total_batches=None, r1_every=2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    store = prepare_store(tmp_path_factory.mktemp("store"), scenes=8, resolutions=(8, 16))
    return Sources([(Store(store.path), 1.0)], [(Store(store.path), 1.0)])


def in_double(latents):
    return Latents(latents.z_st.double(), latents.z_dyn.double(), [m.double() for m in latents.S_st],
                   [m.double() for m in latents.S_dyn])


def test_an_item_does_not_depend_on_its_batch():
    config = TINY.generator
    G = Generator(config).eval().double()  # in double precision, where the order of a sum shows nothing
    together, alone = (G(in_double(Latents.sample(config, seeds))) for seeds in ([5, 6, 7, 8], [7]))
    torch.testing.assert_close(together[2:3], alone)
    assert torch.equal(Latents.sample(config, [5, 7]).S_dyn[2][1], Latents.sample(config, [7]).S_dyn[2][0])


def test_schedule_depends_on_images_seen_alone():
    for config in PROFILES.values():
        for seen in (0, 10_000, 1_199_999, 1_200_000, 5_000_000):
            assert stage(config, seen) == stage(config, seen)
            assert 0 <= stage(config, seen).alpha <= 1 and 0.1 - 1e-9 <= stage(config, seen).pairs <= 0.5


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains(sources, tmp_path, name):
    path = train(ablation(TINY, name), sources, tmp_path, until=8, checkpoint_every=8, sample_every=8)
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert path.exists() and all(v == v for v in line.values() if isinstance(v, float))
    if not ABLATIONS[name][0].get("static_maps", True): assert line["effect_S_st"] == 0

"What must not matter: the batch, the interruption, the order. Same seed, same bits."
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from deeplandscape.core import load_tensors
from deeplandscape.data import Store, prepare_store
from deeplandscape.generator import Generator, GeneratorConfig, Latents
from deeplandscape.training import PROFILES, Sources, TrainConfig, ablation, ABLATIONS, stage, train

TINY = TrainConfig(GeneratorConfig(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 8)), batch=((4, 4),), fade_images=((8, 24),),
                   stable_images=((8, 24),), total_batches=None, r1_every=2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    store = prepare_store(tmp_path_factory.mktemp("store"), scenes=8, resolutions=(8, 16))
    return Sources([(Store(store.path), 1.0)], [(Store(store.path), 1.0)])


def same(a, b):
    (a, ma), (b, mb) = load_tensors(a / "checkpoint.safetensors"), load_tensors(b / "checkpoint.safetensors")
    assert (ma["seen"], ma["step"]) == (mb["seen"], mb["step"]) and a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("cut", [20, 48, 60])      # inside a phase, at the phase change, inside the transition
def test_resume_equals_uninterrupted(sources, tmp_path, cut):
    train(TINY, sources, tmp_path / "whole", checkpoint_every=4)
    train(TINY, sources, tmp_path / "halves", until=cut, checkpoint_every=4)
    train(TINY, sources, tmp_path / "halves", checkpoint_every=4)
    assert same(tmp_path / "whole", tmp_path / "halves")


def test_killed_run_resumes_to_the_same_bits(sources, tmp_path):
    program = ("import sys; sys.path.insert(0, 'tests'); from test_invariance import TINY; from deeplandscape.data import Store;"
               "from deeplandscape.training import Sources, train; s = Store(sys.argv[1]);"
               "train(TINY, Sources([(s, 1.0)], [(s, 1.0)]), sys.argv[2], checkpoint_every=4)")
    store = str(sources.clips[0][0].path)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    run = lambda out: subprocess.Popen([sys.executable, "-c", program, store, str(out)], env=env, stderr=subprocess.DEVNULL)
    run(tmp_path / "whole").wait()
    victim = run(tmp_path / "killed")
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists() and victim.poll() is None: time.sleep(0.02)
    victim.send_signal(signal.SIGKILL); victim.wait()
    run(tmp_path / "killed").wait()
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_truncated_checkpoint_falls_back_to_the_one_before(sources, tmp_path, capsys):
    train(TINY, sources, tmp_path / "whole", checkpoint_every=4)
    train(TINY, sources, tmp_path / "cut", until=40, checkpoint_every=4)
    file = tmp_path / "cut" / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    train(TINY, sources, tmp_path / "cut", checkpoint_every=4)
    assert same(tmp_path / "whole", tmp_path / "cut") and "one before" in capsys.readouterr().out


def test_an_item_does_not_depend_on_its_batch():
    config = TINY.generator
    G = Generator(config).eval()
    together = G(Latents.sample(config, [5, 6, 7, 8]))
    alone = G(Latents.sample(config, [7]))
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
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

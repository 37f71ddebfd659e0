"""Training: the schedule's numbers, exact resume after every kind of accident, processes that share a batch,
the doctor."""
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric

from deeplandscape.training import loop
from deeplandscape.core import InputError, use_threads
from deeplandscape.files import load_tensors, save_tensors
from deeplandscape.registry import weights_path
from deeplandscape.data.store import Store
from deeplandscape.data.prepare import prepare_store
from deeplandscape.model.generator import GeneratorConfig
from deeplandscape.training.schedule import (
    level_entries, official_config, paper_config, SMALL, stage, total_images, TrainConfig)
from deeplandscape.training.losses import Sources
from deeplandscape.training.networks import Networks
from deeplandscape.training.loop import load_checkpoint, pack, train
from deeplandscape.training.monitor import diagnose, read_log
from two_ranks import CONFIG

TESTS = Path(__file__).resolve().parent
TINY = TrainConfig(GeneratorConfig(resolution=16, z_dim=16, w_dim=16, channels=(8, 8, 8)), batch=((4, 4),),
                   fade_images=((8, 24),), stable_images=((8, 24),), total_batches=None, r1_every=2)
OPTIONS = dict(checkpoint_every=8, sample_every=48)


@pytest.fixture(scope="module", autouse=True)
def arithmetic():
    """Bits depend on the number of threads and on how denormals are treated: the same here and in the
    processes started below."""
    threads = torch.get_num_threads()
    use_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare_store(tmp_path_factory.mktemp("store"), scenes=8, resolutions=(8, 16)).path


@pytest.fixture(scope="module")
def sources(store): return Sources([(Store(store), 1.0)], [(Store(store), 1.0)])


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory):
    "An uninterrupted run of 96 images."
    out = tmp_path_factory.mktemp("whole")
    train(TINY, sources, out, **OPTIONS)
    return out


def same(a, b, log=True):
    "Checkpoints equal to the bit, and logs, unless one run was told to end between two lines."
    (ta, ma), (tb, mb) = (load_tensors(out / "checkpoint.safetensors") for out in (a, b))
    assert ma == mb and ta.keys() == tb.keys()
    assert all(torch.equal(ta[k], tb[k]) for k in ta)
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in read_log(out / "log.jsonl")]
             for out in (a, b)]
    assert not log or (lines[0] == lines[1] and len(lines[0]) == 2)
    return True


# --- the schedule ---

def test_the_appendix():
    "Every number of appendix 6 that the paper prints."
    for size in 128, 256, 512:
        config = paper_config(size)
        assert config.generator.resolution == size and config.total_batches == 450_000
        assert config.r1_every == 1
        assert config.betas == (0, 0.99) and config.ema == ((4, 0.999),) and config.crops == 0.5
        assert config.pairs == (0.5, 0.1)
        assert config.style_mixing == 0.9 and config.mapping_lr == 0.01 and config.r1_gamma == ((4, 10.0),)
        at = lambda level: stage(config, level_entries(config)[level - 1][1])
        batch = {8: 256, 16: 128, 32: 64, 64: 32, 128: 32, 256: 16, 512: 8}
        rate = {8: 1e-3, 16: 1e-3, 32: 1e-3, 64: 1e-3, 128: 1.5e-3, 256: 2e-3, 512: 3e-3}
        for level in range(1, config.generator.levels):
            r = config.generator.size(level)
            assert (at(level).batch, at(level).lr, at(level).first) == (batch[r], rate[r], True)
            assert at(level).pairs == pytest.approx(0.5, abs=1e-3)
            assert stage(config, level_entries(config)[level - 1][3] + 600_000).pairs == pytest.approx(0.1)
            assert stage(config, level_entries(config)[level - 1][3] + 1_190_000).level == level
        steps = sum(-(-(n[1] - a[1]) // batch[config.generator.size(a[0])])
                    for a, n in zip(level_entries(config), level_entries(config)[1:]))
        assert steps + (total_images(config) - level_entries(config)[-1][1]) // batch[size] == 450_000


def test_the_released_settings():
    config = official_config(256)
    assert stage(config, 10**7).batch == 32 and config.total_batches == 475_000
    assert official_config(512).total_batches == 445_000


# --- resume ---

@pytest.mark.parametrize("cut", [48, 60])      # at the change of phase, inside the transition
def test_resume_equals_uninterrupted(sources, whole, tmp_path, cut):
    train(TINY, sources, tmp_path, until=cut, **OPTIONS)
    train(TINY, sources, tmp_path, **OPTIONS)
    assert same(whole, tmp_path, log=cut == 48)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[3])
from test_training import OPTIONS, TINY
from deeplandscape.core import use_threads
from deeplandscape.data.store import Store
from deeplandscape.training.losses import Sources
from deeplandscape.training.loop import train
use_threads(1)
store = Store(sys.argv[1])
train(TINY, Sources([(store, 1.0)], [(store, 1.0)]), sys.argv[2], **OPTIONS)
"""


def test_kill_9_and_resume(store, sources, whole, tmp_path):
    """A process killed twice, the second time behind the change of phase at 48 images, then taken up by
    another."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    checkpoint = tmp_path / "checkpoint.safetensors"
    def seen():
        try: return load_tensors(checkpoint)[1]["seen"]
        except (InputError, RuntimeError): return 0  # not there yet, or just being exchanged for the next
    for least in 12, 52:
        victim = subprocess.Popen([sys.executable, "-c", PROGRAM, str(store), str(tmp_path), str(TESTS)],
                                  env=env, stderr=subprocess.DEVNULL)
        while victim.poll() is None and seen() < least: time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert least <= seen() < 96
    train(TINY, sources, tmp_path, **OPTIONS)
    assert same(whole, tmp_path)


def test_a_truncated_checkpoint_is_noticed_and_the_one_before_used(sources, whole, tmp_path, capsys):
    train(TINY, sources, tmp_path, until=52, **OPTIONS)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    train(TINY, sources, tmp_path, **OPTIONS)
    assert same(whole, tmp_path, log=False) and "previous one" in capsys.readouterr().out
    for name in "checkpoint.safetensors", "checkpoint.previous.safetensors":
        (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(InputError, match="can be read"): train(TINY, sources, tmp_path, **OPTIONS)


def test_a_disk_that_is_full_for_a_while_loses_nothing(sources, whole, tmp_path, monkeypatch, capsys):
    "For half of the checkpoints nothing can be written; the run goes on and ends with the same bits."
    fsync, calls = os.fsync, []

    def full(number):
        calls.append(number)
        if 12 < len(calls) < 22: raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)
    monkeypatch.setattr(os, "fsync", full)
    train(TINY, sources, tmp_path, **OPTIONS)
    assert len(calls) > 22 and "disk is full" in capsys.readouterr().err
    (ta, _), (tb, _) = (load_tensors(out / "checkpoint.safetensors") for out in (whole, tmp_path))
    assert all(torch.equal(ta[k], tb[k]) for k in ta) and not list(tmp_path.glob("*.partial*"))


def test_a_disk_that_stays_full_keeps_the_last_checkpoint(sources, whole, tmp_path, monkeypatch):
    train(TINY, sources, tmp_path, until=40, **OPTIONS)
    with monkeypatch.context() as patch:
        def full(number): raise OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="disk is full"): train(TINY, sources, tmp_path, **OPTIONS)
    assert load_tensors(tmp_path / "checkpoint.safetensors")[1]["seen"] == 40
    train(TINY, sources, tmp_path, **OPTIONS)
    assert same(whole, tmp_path, log=False)


def test_a_real_full_disk(sources, tmp_path):
    "The same on a file system of one megabyte, where this machine lets us mount one."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs",
                       str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        train(TINY, sources, disk / "run", until=24, checkpoint_every=12, sample_every=0)
        with pytest.raises(OSError): (disk / "ballast").write_bytes(bytes(2**20))
        with pytest.raises(InputError, match="disk is full"):
            train(TINY, sources, disk / "run", until=48, checkpoint_every=12, sample_every=0)
        assert load_tensors(disk / "run" / "checkpoint.safetensors")[1]["seen"] == 24
        (disk / "ballast").unlink()
        train(TINY, sources, disk / "run", until=48, checkpoint_every=12, sample_every=0)
        assert load_tensors(disk / "run" / "checkpoint.safetensors")[1]["seen"] == 48
    finally: subprocess.run(["umount", str(disk)], check=True)


def test_interrupted_training_saves_and_goes_on(sources, whole, tmp_path, monkeypatch):
    "A request to stop that comes in the middle of a step is answered after it."
    step = loop.train_step

    def with_request(nets, sources, seen, number):
        if seen == 44: signal.raise_signal(signal.SIGINT)
        return step(nets, sources, seen, number)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", with_request)
        with pytest.raises(KeyboardInterrupt, match="48 images and saved"):
            train(TINY, sources, tmp_path, checkpoint_every=40, sample_every=48)
    assert load_tensors(tmp_path / "checkpoint.safetensors")[1]["seen"] == 48
    train(TINY, sources, tmp_path, **OPTIONS)
    assert same(whole, tmp_path)


def test_other_settings_are_refused_and_older_checkpoints_read(sources, tmp_path):
    train(TINY, sources, tmp_path, until=8, **OPTIONS)
    with pytest.raises(InputError, match=r"other settings \(r1_every\)"):
        train(replace(TINY, r1_every=4), sources, tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    tensors, meta = load_tensors(file)
    del meta["config"]["average_starts"], meta["sums"]              # as the first version wrote it
    meta["config"]["judges_first"] = meta["config"].pop("discriminators_first")     # its former name
    save_tensors(file, tensors, meta)
    assert load_checkpoint(file, Networks(TINY, Fabric(accelerator="cpu", devices=1))) == dict(
        seen=8, step=2)


def test_small_checkpoints_of_the_first_version():
    "What such a file said of its settings still means SMALL."
    old = json.loads(json.dumps(asdict(SMALL)))
    del old["average_starts"]
    assert loop.changed_settings(old, SMALL) == []
    assert loop.changed_settings(old | dict(unheard=1), SMALL) == ["unheard"]
    shipped = load_tensors(weights_path("generator_64"))[1]["training"]
    assert "judges_first" in shipped and "discriminators_first" in loop.changed_settings(shipped, SMALL)
    assert "judges_first" not in loop.changed_settings(shipped, SMALL)


# --- several processes ---

def test_two_processes_with_half_batches_equal_one(store, sources, tmp_path):
    """Gradients, weights and running average after a step of each kind: static, pairs, crop pairs; then a
    short training."""
    first = tmp_path / "start"
    train(CONFIG, sources, first, until=72, checkpoint_every=72, sample_every=0)
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([*sys.path, str(TESTS)]), OMP_NUM_THREADS="1")
    files = [tmp_path / f"{n}.safetensors" for n in (1, 2)]
    arguments = lambda out: [str(TESTS / "two_ranks.py"), str(store),
                             str(first / "checkpoint.safetensors"), str(out)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = [subprocess.run([*start, *arguments(out)], env=env, capture_output=True, text=True, timeout=300)
            for start, out in (([sys.executable], files[0]), (launcher, files[1]))]
    assert all(d.returncode == 0 for d in done), done[1].stderr[-3000:]
    one, two = (load_tensors(file)[0] for file in files)
    assert one.keys() == two.keys() and len(one) > 400
    for name, a in one.items():
        scale = max(1.0, a.abs().max().item())
        assert (a - two[name]).abs().max() <= 1e-5 * scale, name
    log = [read_log(f"{file}.run/log.jsonl")[-1] for file in files]
    assert log[0].keys() == log[1].keys()
    assert all(abs(log[0][k] - log[1][k]) < 1e-3 for k in log[0] if k != "seconds")


def test_a_batch_that_cannot_be_split():
    class Three: world_size, strategy = 3, Fabric(accelerator="cpu", devices=1).strategy
    with pytest.raises(InputError, match="batch of 4 at 8 px cannot be split over 3"): Networks(TINY, Three())


# --- the diagnostics ---

def course(**last):
    "A healthy log of five lines, the last one changed."
    line = lambda i: dict(seen=1000 * i, step=100 * i, resolution=64, alpha=1.0, pairs=0.1,
                          D_loss_st=1.0, real_st=0.8, fake_st=-0.8, G_loss_st=1.3, r1_st=0.3, D_loss_dyn=0.6,
                          G_loss_dyn=1.6, r1_dyn=0.3, effect_z_st=0.22, effect_z_dyn=0.12, effect_S_st=0.06,
                          effect_S_dyn=0.04, effect_S_dyn_moving=0.055, effect_S_dyn_static=0.015,
                          effect_z_dyn_structure=0.2, real_clouds_moving=0.07, real_light_structure=0.05)
    return [line(i) for i in range(1, 5)] + [line(5) | last]


@pytest.mark.parametrize("last, name, words", [
    (dict(), None, None),
    (dict(D_loss_st=0.03, G_loss_st=8.0), "discriminator_won_st", "D_st has won"),
    (dict(D_loss_dyn=0.03, G_loss_dyn=8.0), "discriminator_won_dyn", "D_dyn has won"),
    (dict(effect_z_st=0.02), "collapse", "collapses"),
    (dict(effect_S_dyn_moving=0.006, effect_S_dyn_static=0.001), "S_dyn_dead", "hardly used"),
    (dict(effect_S_dyn_static=0.06), "static_leak_S_dyn", "land moves"),
    (dict(effect_z_dyn_structure=0.6), "static_leak_z_dyn", "changes the land"),
    (dict(r1_dyn=55.0), "r1_exploding_dyn", "explodes"),
    (dict(G_loss_st=float("nan")), "not_a_number", "not finite"),
])
def test_the_diagnostics(last, name, words):
    found = diagnose(course(**last))
    assert list(found) == ([name] if name else []) and (not words or words in found[name])


def test_the_diagnostics_wait_for_the_transition():
    assert diagnose(course(alpha=0.2, effect_S_dyn_moving=0.0, effect_S_dyn_static=0.0)) == {}
    assert diagnose([]) == {}
    assert diagnose([dict(seen=1, resolution=8, alpha=1.0, effect_S_dyn=0.0)]) == {}

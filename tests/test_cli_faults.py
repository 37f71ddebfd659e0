"""Every option of every command: bad input is one sentence on stderr and exit code 2, and nothing is left
behind."""
import inspect
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from typer.models import ArgumentInfo

from deeplandscape import files as filing
from deeplandscape.cli import app
from deeplandscape.commands.options import run_app
from deeplandscape.core import InputError, pick_device
from deeplandscape.training.fit import fit, FitConfig
from deeplandscape.training.material import with_settings
from deeplandscape.training.schedule import SMALL
from small_models import write_weights


def commands(group=app, before=()):
    "Every command of the app: the words that call it, and its function."
    for command in group.registered_commands:
        yield (*before, command.name or command.callback.__name__), command.callback
    for inner in group.registered_groups: yield from commands(inner.typer_instance, (*before, inner.name))


def options_of(function):
    "Name, kind, Typer's description and default of each parameter."
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    hints = get_type_hints(function, include_extras=True)
    for name, hint in ((n, hints[n]) for n in defaults):
        kind, about = hint.__origin__, hint.__metadata__[0]
        yield name, kind, about, defaults[name]


def arguments_of(function, folder):
    "A value for each argument that must be given, and for each option that must be."
    given = [(name, about) for name, _, about, default in options_of(function)
             if default is inspect.Parameter.empty]
    arguments = [str(folder / "good.png") for _, about in given if isinstance(about, ArgumentInfo)]
    return arguments + [part for name, about in given if not isinstance(about, ArgumentInfo)
                        for part in ((about.param_decls or [f"--{name}"])[0], str(folder / "out"))]


def is_number(kind): return kind in (int, float) or bool({int, float} & set(get_args(kind)))


NUMBERS = [(words, f"--{name.replace('_', '-')}") for words, function in commands()
           for name, kind, *_ in options_of(function) if is_number(kind)]
BAD = ["nan", "inf", "-inf", "-1e9", "-1000000", "x", ""]


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (48, 64, 3), np.uint8)).save(
        tmp_path / "good.png")
    (tmp_path / "file.txt").write_text("a file")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, arguments):
    "Exit code 2 and one sentence; returns it."
    capsys.readouterr()
    before = sorted(Path.cwd().rglob("*"))
    assert run_app(app, [str(a) for a in arguments]) == 2, arguments
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert (len(lines) == 1 and lines[0].startswith("deeplandscape: ")
            and "Traceback" not in err), (arguments, err)
    assert sorted(Path.cwd().rglob("*")) == before, (arguments, "something was left behind")
    return lines[0]


def test_there_are_numbers(): assert len(NUMBERS) > 45


@pytest.mark.parametrize("words, option", NUMBERS, ids=lambda v: " ".join(v) if isinstance(v, tuple) else v)
def test_numbers_out_of_any_range(folder, capsys, words, option):
    for bad in BAD:
        refused(capsys, [*words, *arguments_of(dict(commands())[words], folder), f"{option}={bad}"])


@pytest.mark.parametrize("arguments", [
    "sample -o out --videos 1 --seconds -1", "sample -o out --videos 1 --seconds 0",
    "sample -o out --videos 1 --fps 0", "sample -o out --images -2",
    "evaluate empty empty --limit 0", "evaluate empty empty --limit -1",
    "evaluate empty empty --stride 0", "evaluate empty empty --size -3", "evaluate empty empty --frames 1",
    "bench --repeats 0", "bench --batch 0", "bench --forward-pixels 0",
    "animate good.png --iterations -1", "animate good.png --iterations 0", "animate good.png --fps 0",
    "animate good.png --size 0", "animate good.png --light-amount 1.5",
    "animate good.png --speed 100", "prepare out --scenes -1", "prepare out --scenes 1 --max-frames 1",
    "train --scenes -1", "train --every 0", "train --mirror 2", "train --devices 0",
    "fit-generator generator -o out --encoder-steps 0", "fit-generator generator -o out --encoder-batch 0",
    "fit-generator generator -o out --encoder-reuse 0", "fit-generator generator -o out --encoder-rate 0",
    "explore --port 0", "explore --port 99999", "reproduce --jobs 0", "study serve plan.json --port -1"])
def test_numbers_that_mean_nothing(folder, capsys, arguments): refused(capsys, arguments.split())


@pytest.mark.parametrize("arguments, names", [
    ("animate good.png -o empty", "empty"), ("animate good.png -o file.txt/x.mp4", "file.txt"),
    ("animate good.png -o nowhere/x.mp4", "nowhere"), ("animate good.png -o x.avi", "mp4"),
    ("animate good.png -o x", "mp4"), ("animate good.png --mask-out m.jpg", "png"),
    ("animate good.png --mask-out empty", "empty"), ("animate empty -o file.txt", "file.txt"),
    ("animate . -o file.txt/deeper", "file.txt"), ("mask good.png -o empty", "empty"),
    ("mask good.png -o m.jpg", "png"), ("sample -o file.txt --images 1", "file.txt"),
    ("sample -o file.txt/deeper --images 1", "file.txt"), ("prepare file.txt --scenes 2", "file.txt"),
    ("train -o file.txt", "file.txt"), ("fit-generator generator -o file.txt", "file.txt"),
    ("evaluate empty empty -o empty", "empty"), ("evaluate empty empty -o nowhere/x.json", "nowhere"),
    ("bench -o x.txt", "json"), ("import-official good.png -o file.txt", "file.txt"),
    ("animate good.png -o /proc/x.mp4", "/proc"), ("sample -o /proc/out --images 1", "/proc")])
def test_outputs_that_cannot_be(folder, capsys, arguments, names):
    assert names in refused(capsys, arguments.split())


@pytest.mark.parametrize("device",
                         ["xpu", "meta", "tpu", "", "cpu:1", "cuda:99", "hpu", "vulkan", "cuda:x", "-1"])
@pytest.mark.parametrize("command", ["animate good.png", "mask good.png", "sample -o out --images 1",
                                     "train", "fit-generator generator -o out", "bench"])
def test_devices(folder, capsys, command, device):
    assert "device" in refused(capsys, [*command.split(), f"--device={device}"]).lower()


def test_devices_in_python():
    for device in "meta", "xpu", None, 3.5, "cpu:7":
        with pytest.raises(InputError): pick_device(device)
    assert pick_device("cpu:0").type == "cpu" and pick_device(torch.device("cpu")).type == "cpu"


@pytest.mark.parametrize("arguments", [
    ["animate"], ["animate", "--nosuch"], ["nosuch"], ["study", "nosuch"],
    ["animate", "good.png", "--light", ""], ["animate", "good.png", "--light", " "],
    ["animate", "good.png", "--light", "day,,night"],
    ["animate", "good.png", "--direction", ""], ["animate", "good.png", "--direction", "north"],
    ["animate", "good.png", "--direction", "0h"], ["animate", "good.png", "--variant", ""],
    ["animate", "good.png", "--mask", "nosuch.png"], ["animate", "good.png", "--mask", "file.txt"],
    ["animate", "good.png", "good.png", "--mask", "good.png", "-o", "out"],
    ["animate", "good.png", "--encoder", "nosuch"], ["animate", "good.png", "--encoder", "good.png"],
    ["animate", "good.png", "--lighting", "empty"], ["animate", "good.png", "--weights", "encoder"],
    ["animate", "empty", "-o", "out"], ["train", "--photos", "nosuch"], ["train", "--photos", "empty"],
    ["train", "--photos", "file.txt"], ["train", "--clips", "nosuch:2"], ["train", "--clips", "empty"],
    ["train", "--scenes", "0"], ["train", "--start", "nosuch"], ["prepare", "out", "--photos", "empty"],
    ["prepare", "out", "--photos", "good.png", "--clips", "nosuch"],
    ["prepare", "out", "--clips", "file.txt"],
    ["fit-generator", "nosuch", "-o", "out"],
    ["fit-generator", "generator", "-o", "out", "--only", "everything"],
    ["mask", "file.txt"], ["mask", "empty"]], ids=" ".join)
def test_names(folder, capsys, arguments): refused(capsys, arguments)


SETTINGS = ["stable_images=200", "stable_images=((8,-1),)", "batch=((4,0),)", "batch=((4,2.5),)",
            "lr=None", "lr=nan", "lr=((64,1),(8,2))", "betas=(0,)", "betas=(0,7)", "pairs=0.5",
            "pairs=(2,3)", "total_batches=x", "total_batches=-1", "seed=1.5", "seed=-1", "seed=", "=3",
            "seed", "generator=3", "generator.channels=8", "generator.channels=(8,0,8)", "generator.z_dim=2",
            "generator.x=1", "generator.resolution=100", "generator.static_maps=1", "seed.x=1",
            "projected=1", "average_starts=soon", "style_mixing=2", "style_mixing=inf", "crops=-1",
            "ema=((8,'a'),)", "r1_every=0", "first_resolution=7", "seed=__import__('os')", "mapping_lr=[1]"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(folder, capsys, setting): refused(capsys, ["train", "--dry-run", "--set", setting])


def test_good_settings():
    changed = with_settings(SMALL, ["seed=3", "lr=[[8,1e-3],[64,5e-4]]", "total_batches=None",
                                    "generator.resolution=32", "mapping_lr=1", "average_starts=initial"])
    assert (changed.seed, changed.lr, changed.generator.resolution, changed.mapping_lr) == (
        3, ((8, 1e-3), (64, 5e-4)), 32, 1.0)


def run(arguments, cwd, **environment):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), **environment)
    return subprocess.run([sys.executable, "-c", "from deeplandscape.cli import main; main()",
                           *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
                          env=env, timeout=300)


def test_no_home(folder):
    "A user without a home directory, as in many containers."
    code = ("import os; os.environ.pop('HOME', None); os.environ.pop('XDG_CACHE_HOME', "
            "None); os.setuid(54321) if os.getuid() == 0 else None; "
            "from deeplandscape.registry import _cache; print(_cache())")
    env = ({k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "DEEPLANDSCAPE_CACHE")}
           | dict(PYTHONPATH=os.pathsep.join(sys.path)))
    done = subprocess.run([sys.executable, "-c",
                           code.replace("os.setuid(54321) if os.getuid() == 0 else None; "
                                        "from deeplandscape.registry import _cache",
                                        "from deeplandscape.registry import _cache; "
                                        "os.setuid(54321) if os.getuid() == 0 else None")],
                          capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0 and "deeplandscape" in done.stdout, done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")
def test_a_folder_without_permission(folder, capsys, monkeypatch):
    place = folder / "locked"
    place.mkdir()
    place.chmod(0o555)
    if os.geteuid() == 0:  # root may write everywhere: let the system refuse as it would
        real = filing.tempfile.TemporaryFile
        def refuse(*args, dir=None, **options):
            if Path(dir).resolve() == place.resolve():
                raise PermissionError(13, "Permission denied", str(dir))
            return real(*args, dir=dir, **options)
        monkeypatch.setattr(filing.tempfile, "TemporaryFile", refuse)
    for arguments in (["animate", "good.png", "-o", "locked/x.mp4"],
                      ["sample", "-o", "locked/out", "--images", "1"], ["train", "-o", "locked/run"],
                      ["prepare", "locked/store", "--scenes", "1"]):
        assert "locked" in refused(capsys, arguments)


SMALLEST = [f"--set={s}" for s in ("generator.resolution=8",
                                   "generator.z_dim=16", "generator.w_dim=16", "generator.channels=(8,8)",
                                   "generator.mapping_layers=2", "batch=((4,8),)", "fade_images=((8,0),)")]


def test_other_data_and_more_data(folder, capsys, monkeypatch):
    rng = np.random.RandomState(0)
    for name in "one", "two":
        (folder / name).mkdir()
        for k in range(4):
            Image.fromarray(rng.randint(0, 255, (24, 32, 3), np.uint8)).save(folder / name / f"{k}.png")
    train = ["train", "-o", "run", "--scenes", "2", "--device", "cpu",
             "--set=stable_images=((8,16),)", *SMALLEST]
    assert run_app(app, [*train, "--photos", "one"]) == 0
    assert "other data" in refused_but_output(capsys, [*train, "--photos", "two"])
    Image.fromarray(rng.randint(0, 255, (24, 32, 3), np.uint8)).save(folder / "one" / "9.png")
    capsys.readouterr()
    assert run_app(app, [*train, "--photos", "one"]) == 0
    out, err = capsys.readouterr()
    assert "5 photos" in out and "already finished" in err


def refused_but_output(capsys, arguments):
    capsys.readouterr()
    assert run_app(app, [str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_two_trainings_in_one_folder(folder, capsys):
    with filing.only_one(folder / "run", "training"):
        code = run_app(app, ["train", "-o", "run", "--scenes", "2", "--device",
                             "cpu", "--set=stable_images=((8,16),)", *SMALLEST])
    assert code == 2 and "Another process is training" in capsys.readouterr().err
    assert not list((folder / "run").glob("*.safetensors"))


def test_a_training_that_diverges_keeps_its_checkpoint(folder, capsys, monkeypatch):
    from deeplandscape.training import loop
    real, train = loop.train_step, ["train", "-o", "run", "--scenes", "2", "--device",
                                    "cpu", "--every", "16", "--set=stable_images=((8,160),)", *SMALLEST]
    def step(nets, sources, seen, number):
        if number == 5:
            with torch.no_grad(): next(nets.G.parameters()).fill_(math.nan)
        return real(nets, sources, seen, number)
    monkeypatch.setattr(loop, "train_step", step)
    assert run_app(app, train) == 2
    assert "diverged" in (err := capsys.readouterr().err) and "32 images" in err and "Traceback" not in err
    for name in "checkpoint", "checkpoint.previous", "generator":
        tensors, _ = filing.load_tensors(folder / "run" / f"{name}.safetensors")
        assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()), name


def test_a_regression_that_diverges_keeps_its_checkpoint(tmp_path):
    model, path = torch.nn.Linear(2, 1), tmp_path / "fit.safetensors"
    loss = lambda split, step: model(torch.ones(1, 2)).sum().square() * (math.nan if split == "train"
                                                                         and step == 7 else 1)
    with pytest.raises(InputError, match="not a finite number"):
        fit(model, loss, FitConfig(20, validate_every=5), path, quiet=True)
    tensors, state = filing.load_tensors(path)
    assert state["step"] == 5 and all(torch.isfinite(t).all() for t in tensors.values())


def test_a_refused_store_leaves_nothing(folder, capsys):
    (folder / "bad").mkdir()
    (folder / "bad" / "x.jpg").write_text("no picture")
    assert "bad" in refused(capsys, ["prepare", "out", "--photos", "bad"])
    assert not (folder / "out").exists()


def test_one_unreadable_file_and_the_caution(folder, capsys):
    rng = np.random.RandomState(0)
    for name in "a", "b":
        (folder / name).mkdir()
        for k in range(4):
            Image.fromarray(rng.randint(0, 255, (32, 32, 3), np.uint8)).save(folder / name / f"{k}.png")
    (folder / "a" / "2.png").write_text("no picture")
    capsys.readouterr()
    assert run_app(app, ["evaluate", "a", "b", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "2.png" in err and "caution" in out and "fewer items than features" in out and "SSIM" in out
    for name in "0", "1", "3": (folder / "a" / f"{name}.png").write_text("no picture")
    assert "a/" in refused(capsys, ["evaluate", "a", "b", "--device", "cpu"])


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_animation_leaves_no_file(folder, number, code):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path),
               DEEPLANDSCAPE_WEIGHTS=str(write_weights(folder)))
    slow = "import time; from deeplandscape import media; real = media._frame_bytes\n" \
           "def frames(x):\n    for f in real(x):\n        time.sleep(0.5); yield f\n" \
           "media._frame_bytes = frames\nfrom deeplandscape.cli import main; main()"
    small = ["--seconds", "4", "--fps", "10", "--size", "64", "--iterations",
             "1", "--device", "cpu", "--light", "none"]
    process = subprocess.Popen([sys.executable, "-c", slow, "animate", "good.png", "-o", "x.mp4", *small],
                               cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    began = time.time()
    while not list(folder.glob(".x.*")):
        assert process.poll() is None and time.time() - began < 240, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code and "Traceback" not in error, error
    if number == signal.SIGKILL:                        # it could not tidy up: the next that writes here does
        assert list(folder.glob(".x.*"))
        filing.remove_stale.cache_clear()
        with filing.atomic(folder / "other.txt") as partial: partial.write_text("whole")
    assert not list(folder.glob(".*")) and not (folder / "x.mp4").exists()


def test_partial_files_of_others_stay(tmp_path):
    mine = tmp_path / f".a.{filing._machine()}-{os.getpid()}-00000000.partial.mp4"
    elsewhere, unrelated = tmp_path / ".a.zzzz-1-00000000.partial.mp4", tmp_path / ".b.partial.ipynb"
    for path in mine, elsewhere, unrelated: path.touch()
    filing.remove_stale.cache_clear()
    filing.remove_stale(tmp_path)
    assert mine.exists() and elsewhere.exists() and unrelated.exists()


def test_many_photographs(folder, capsys, monkeypatch):
    monkeypatch.setenv("DEEPLANDSCAPE_WEIGHTS", str(write_weights(folder)))
    (folder / "in").mkdir()
    for name in "a", "c": (folder / "in" / f"{name}.png").write_bytes((folder / "good.png").read_bytes())
    (folder / "in" / "b.png").write_text("no picture")
    small = ["--seconds", "0.3", "--fps", "10", "--size", "48", "--iterations",
             "1", "--device", "cpu", "--light", "none", "--mask-out", "masks"]
    assert run_app(app, ["animate", "in", "-o", "out", *small]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"a\.png +[\d.]+ +made", out) and re.search(r"b\.png +[\d.]+ +failed", out)
    assert "2 made, 0 there already, 1 failed" in out and "Traceback" not in err and "left" in err
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["a.mp4", "c.mp4"]
    assert sorted(p.name for p in (folder / "masks").iterdir()) == ["a.png", "c.png"]
    stamp = (folder / "out" / "a.mp4").stat().st_mtime_ns
    (folder / "in" / "b.png").unlink()
    assert run_app(app, ["animate", "in", "-o", "out", *small]) == 0
    assert (folder / "out" / "a.mp4").stat().st_mtime_ns == stamp
    assert run_app(app, ["animate", "in", "-o", "out", "--again", *small]) == 0
    assert (folder / "out" / "a.mp4").stat().st_mtime_ns > stamp


def test_networks_that_do_not_belong_together(folder, capsys, monkeypatch):
    write_weights(folder)
    for arguments in (["--weights", "generator.safetensors"], ["--encoder", "encoder.safetensors"],
                      ["--lighting", "lighting.safetensors"]):
        assert "do not belong together" in refused(capsys,
                                                   ["animate", "good.png", "--device", "cpu", *arguments])

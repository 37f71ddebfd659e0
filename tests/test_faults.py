"Bad input gives one clear sentence, exit code 2, and leaves nothing behind."
import contextlib
import io
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from deeplandscape.cli import app
from deeplandscape.commands.options import run_app
from deeplandscape.files import load_tensors


def process_of_its_own(*arguments, cwd=None):
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.run([sys.executable, "-c", "from deeplandscape.cli import main; main()",
                           *map(str, arguments)],
                          capture_output=True, text=True, cwd=cwd, env=env, timeout=300)


def cli(*arguments, cwd="."):
    "A command in this process, which saves the seconds in which a new one imports torch."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_app(app, [str(a) for a in arguments])
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def refused(done):
    lines = [line for line in done.stderr.strip().splitlines() if line]
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture()
def files(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "tiny.png")
    Image.fromarray(np.random.RandomState(
        0).randint(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    return tmp_path


@pytest.mark.parametrize("photo", ["text.jpg", "tiny.png", "cut.png", "missing.jpg", "empty"])
def test_photos_that_cannot_be_animated(files, photo):
    sentence = refused(cli("animate", files / photo, "-o", files / "x.mp4", "--iterations", 2))
    assert photo in sentence and not list(files.glob("x*"))


def test_the_program_itself(files):
    done = process_of_its_own("animate", "missing.jpg", "-o", "x.mp4", cwd=files)
    assert "missing.jpg" in refused(done) and done.stdout == "" and not list(files.glob("x*"))


@pytest.mark.parametrize("arguments, names", [
    (["--direction", "25h"], "12h"),
    (["--variant", "EOFI"], "EOIFS"),
    (["--weights", "cut.safetensors"], "cut.safetensors"),
    (["--device", "tpu"], "tpu"),
    (["--seconds", "0"], "second"),
    (["--light", "sunny"], "deep night"),
    (["--light", "tour", "--light-amount", "3"], "from 0 to 1"),
    (["--light", "tour", "--lighting", "cut.safetensors"], "cut.safetensors"),
    (["-o", "x.avi"], "mp4"),
    (["-o", "nowhere/deep/x.mp4"], "nowhere"),
])
def test_options_that_make_no_sense(files, arguments, names):
    done = cli("animate", files / "good.png", "--iterations", 2,
               *(["-o", "x.mp4"] if "-o" not in arguments else []), *arguments, cwd=files)
    assert names in refused(done)
    assert not list(files.glob("**/x*"))


@pytest.mark.parametrize("arguments", [
    ["train", "--profile", "huge"], ["train", "--dry-run", "--set", "sede=1"],
    ["train", "--dry-run", "--set", "generator.resolution=100"],
    ["train", "--precision", "16"], ["train", "--devices", "4096"], ["train", "--set", "r1_every=0"],
    ["train", "--stills", "nostore", "--clips", "nostore"], ["sample", "-o", "out"], ["prepare", "out"],
    ["prepare", "out", "--photos", "nowhere"],
    ["import-official", "text.jpg", "-o", "out"], ["reproduce", "--profile", "nosuch"],
    ["evaluate", "empty", "empty"],
])
def test_commands(files, arguments):
    refused(cli(*arguments, cwd=files))
    assert not (files / "out").exists() or not list((files / "out").rglob("*.safetensors"))


def test_unknown_notebook_parameter(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text("settings: {figures: figures, trains: false}\nnotebooks:\n  fig01_videos: {n_vidoes: "
                       "2}\n")
    assert "n_vidoes" in refused(cli("reproduce", "--profile", profile))


SMALLEST = [f"--set={setting}" for setting in ("generator.resolution=16", "generator.z_dim=16",
                                               "generator.w_dim=16", "generator.channels=(8,8,8)",
                                               "generator.mapping_layers=2", "batch=((4,8),)",
                                               "stable_images=((8,100000),)")]


def test_ctrl_c_saves_a_training_and_exits_with_130(tmp_path):
    command = [sys.executable, "-c", "from deeplandscape.cli import main; main()", "train", "-o",
               str(tmp_path), "--scenes", "4", "--device", "cpu", *SMALLEST]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path),
                                        DEEPLANDSCAPE_PROGRESS="1", PYTHONUNBUFFERED="1"))
    start = ""
    while "training:" not in start or "img/s" not in start:        # the bar moves: it trains
        text = process.stderr.read(1)
        assert text, start
        start = (start + text)[-400:]
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 130, error
    last = error.strip().splitlines()[-1]
    assert "and saved" in last and "Traceback" not in error
    assert f"{load_tensors(tmp_path / 'checkpoint.safetensors')[1]['seen']:,} images" in last

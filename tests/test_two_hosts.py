"""Two hosts train together over TCP; one is killed; the same command resumes.

The hosts are network namespaces joined by a cable, each with its own loopback, address and processes."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deeplandscape.cli import app
from deeplandscape.data.prepare import prepare_store
from deeplandscape.files import load_tensors

ADDRESSES = ("10.201.77.1", "10.201.77.2")
TINY = ["generator.resolution=16", "generator.z_dim=16", "generator.w_dim=16", "generator.channels=(8,8,8)",
        "batch=((8,8),)", "fade_images=((8,16),)", "stable_images=((8,16),(16,128))", "r1_every=2",
        "shared=(0.5,0.2)"]


def ip(*words): return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def hosts():
    "Names of two network namespaces whose ends of one cable have `ADDRESSES`."
    names = [f"dl{os.getpid()}{end}" for end in "ab"]
    if not shutil.which("ip") or ip("netns", "add", names[0]).returncode:
        pytest.skip("network namespaces need root and the command ip")
    try:
        ip("netns", "add", names[1])
        if ip("link", "add", names[0], "type", "veth", "peer", "name", names[1]).returncode:
            pytest.skip("this machine has no virtual cables (veth)")
        for name, address in zip(names, ADDRESSES):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for device in (name, "lo"): assert ip("-n", name, "link", "set", device, "up").returncode == 0
        yield names
    finally:
        for name in names:
            kill(name)
            ip("netns", "del", name)


def kill(host):
    "What losing power does to the processes of a host."
    pids = ip("netns", "pids", host).stdout.split()
    if pids: subprocess.run(["kill", "-9", *pids], capture_output=True)


def command(store, out):
    changes = [word for change in TINY for word in ("--set", change)]
    return ["train", "--photos", str(store), "--clips", str(store), "-o", str(out), "--every", "16", *changes]


def start(hosts, log, *words):
    "The command of the page on clusters on both hosts, with the two options that it names for such networks."
    both, shown = [], Path(f"{log}.log").open("ab")
    for first, (host, address) in zip((1, 0), zip(hosts, ADDRESSES)):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1",
                   GLOO_SOCKET_IFNAME=host, DEEPLANDSCAPE_PROGRESS="0")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
                    "--rdzv-backend", "c10d", "--rdzv-id", "mine", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500",
                    "--rdzv-conf", f"is_host={first}", "--local-addr", address,
                    "--no-python", str(Path(sys.executable).with_name("deeplandscape")), *words]
        both.append(subprocess.Popen(["ip", "netns", "exec", host, *launcher], env=env, stdout=shown,
                                     stderr=subprocess.STDOUT, start_new_session=True))
    return both


def seen(out):
    "Images that the checkpoint has seen; 0 without one."
    path = Path(out) / "checkpoint.safetensors"
    return load_tensors(path)[1]["seen"] if path.exists() else 0


def wait_for(condition, both, seconds=240):
    for _ in range(20 * seconds):
        if condition(): return
        if any(process.poll() is not None for process in both): break
        time.sleep(0.05)
    raise AssertionError("a host stopped, or the time is over")


@pytest.mark.slow
def test_a_host_is_killed_and_the_same_command_resumes(hosts, tmp_path):
    store = prepare_store(tmp_path / "store", scenes=16, resolutions=(8, 16)).path
    one, two = tmp_path / "one", tmp_path / "two"
    alone = CliRunner().invoke(app, command(store, one))
    assert alone.exit_code == 0, alone.output

    both = start(hosts, tmp_path / "first", *command(store, two))
    try: wait_for(lambda: seen(two), both)
    except AssertionError: pytest.fail((tmp_path / "first.log").read_text()[-3000:])
    kill(hosts[1])
    assert both[0].wait(120) != 0, "the first host ends when the second is lost"
    left = seen(two)
    assert 0 < left < seen(one), "killed in between"

    both = start(hosts, tmp_path / "second", *command(store, two))
    codes, told = [process.wait(240) for process in both], (tmp_path / "second.log").read_text()
    assert codes == [0, 0], told[-3000:]
    assert f"resumes at {left} images" in told and seen(two) == seen(one)
    a, b = (load_tensors(path / "checkpoint.safetensors")[0] for path in (one, two))
    assert a.keys() == b.keys()
    far = {name: float((a[name].double() - b[name].double()).abs().max()) for name in a}
    assert max(far.values()) < 1e-3, sorted(far.items(), key=lambda pair: -pair[1])[:5]

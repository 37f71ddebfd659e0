"""The script that starts torchrun on the nodes of a Slurm job."""
import os
import subprocess
from pathlib import Path


def test_the_script_for_slurm_starts_torchrun_on_each_node(tmp_path):
    "With commands of Slurm that only show what they were given."
    for name, text in (("scontrol", "printf 'node7\\nnode8\\n'"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o700)
    env = dict(os.environ, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", SLURM_JOB_NODELIST="node[7-8]",
               SLURM_NNODES="2", SLURM_GPUS_ON_NODE="4", SLURM_JOB_ID="31")
    script = Path(__file__).resolve().parents[1] / "nbs" / "repro" / "cluster" / "torchrun.sh"
    done = subprocess.run(["bash", str(script), "--profile", "paper", "-o", "a folder"], env=env, check=True,
                          capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert words[0] == "torchrun" and words[words.index("--rdzv-endpoint") + 1] == "node7:29500"
    assert words[words.index("--nproc-per-node") + 1] == "4" and words[words.index("--nnodes") + 1] == "2"
    assert words[-5:] == ["train", "--profile", "paper", "-o", "a folder"]

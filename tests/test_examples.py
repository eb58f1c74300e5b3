"""Scripts of examples/: their commands are valid, and shells can read them."""

import re
import shutil
import subprocess
import textwrap

import pytest
from helpers.page_commands import parse, shell_commands
from helpers.paths import ROOT

SLURM = ROOT / "examples" / "slurm_train.sh"


def test_the_slurm_script_is_valid() -> None:
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    subprocess.run(["bash", "-n", str(SLURM)], check=True)


def test_the_commands_of_the_slurm_script_are_valid() -> None:
    script = SLURM.read_text(encoding="utf-8")
    train, export = map(parse, shell_commands(textwrap.indent(script, "    ")))
    assert (train["source"], train["resume"], train["devices"]) == ("$IMAGES", True, None)
    assert str(train["out"]) == str(export["source"]) == "$RUN"
    requested = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.MULTILINE))
    processes = int(requested["nodes"]) * int(requested["ntasks-per-node"])
    assert requested["gpus-per-node"] == requested["ntasks-per-node"]  # a process for each GPU
    assert int(train["batch_size"]) * processes == 512  # as the comment says

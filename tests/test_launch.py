"""Every launch file is valid for the installed accelerate and says how it is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

LAUNCH = Path(__file__).parents[1] / "launch"
CONFIGS = sorted(LAUNCH.glob("*.yaml"))


def test_all_are_here() -> None:
    assert {path.name for path in CONFIGS} == {
        "cpu.yaml",
        "one_gpu.yaml",
        "ddp.yaml",
        "ddp_cpu.yaml",
        "fsdp2_qlora.yaml",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_accelerate_reads_it(path: Path) -> None:
    config = load_config_from_file(str(path))  # refuses keys that accelerate does not know
    assert config.num_machines == 1 and config.num_processes >= 1
    known = vars(launch_command_parser().parse_args(["--config_file", str(path), "script.py"]))
    for key in getattr(config, "fsdp_config", None) or {}:
        assert key in known, f"the installed accelerate has no {key}"


@pytest.mark.parametrize("path", [*CONFIGS, LAUNCH / "multi_node.sh"], ids=lambda path: path.name)
def test_its_head_names_the_command(path: Path) -> None:
    head = path.read_text(encoding="utf-8")[:900]
    assert path.name in head and ("accelerate launch" in head or "launch/multi_node.sh" in head)


def test_the_script_is_valid_and_asks_for_what_it_lacks() -> None:
    script = LAUNCH / "multi_node.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    result = subprocess.run(
        ["bash", str(script), "r.yaml"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert result.returncode != 0 and "set MACHINES to the number of machines" in result.stderr

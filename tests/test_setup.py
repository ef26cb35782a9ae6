"""Packaging says what the code needs, and CI runs what the README promises."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

import alignvar_arch
from alignvar_arch import cli
from alignvar_arch.version import __version__

ROOT = Path(__file__).parents[1]
COMMAND = "pip install -e '.[test]' && pytest"
# modules whose distribution has another name
COMES_WITH_PYIQA = {"packaging", "timm"}  # imported after pyiqa only, in functions: the extra [metrics]
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "skimage": "scikit-image", "yaml": "pyyaml"}


@pytest.fixture
def metadata(monkeypatch):
    """The arguments that setup.py gives to setuptools."""
    found = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_one_version(metadata):
    assert metadata["version"] == __version__ == alignvar_arch.__version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_folder_with_code_is_packaged(metadata):
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".")
               for path in (ROOT / "alignvar_arch").rglob("*.py")}
    assert folders == set(metadata["packages"])


def test_whatever_is_no_code_is_packaged(metadata):
    package = ROOT / "alignvar_arch"
    packaged = {path for pattern in metadata["package_data"]["alignvar_arch"] for path in package.glob(pattern)}
    assert packaged == {path for path in package.rglob("*")
                        if path.is_file() and path.suffix not in (".py", ".pyc") and "egg-info" not in str(path)}


def test_every_import_is_required(metadata):
    lines = [*metadata["install_requires"], *metadata["extras_require"]["wandb"]]
    required = {re.match(r"[\w-]+", line)[0] for line in lines}
    needed = set()
    for path in (ROOT / "alignvar_arch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                needed |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                needed.add(node.module.split(".")[0])
    needed -= {*sys.stdlib_module_names, "alignvar_arch", *COMES_WITH_PYIQA}
    assert {DISTRIBUTIONS.get(name, name) for name in needed} <= required


def test_entry_points(metadata):
    assert metadata["entry_points"]["console_scripts"] == ["basicsr = alignvar_arch.cli:entry"]
    assert callable(cli.main)
    assert metadata["entry_points"]["basicsr.plugins"] == ["alignvar = alignvar_arch"]
    assert metadata["python_requires"] == ">=3.10,<3.13"
    assert set(metadata["extras_require"]["test"]) <= set(metadata["extras_require"]["dev"])


def ci(tmp_path, readme, failing=""):
    """Runs .ci/run on a tree with nothing but a README, with stand-ins that write down how they were called."""
    tree, tools, temporary = (tmp_path / name for name in ("tree", "tools", "temporary"))
    for folder in (tree / ".ci", tools, temporary):
        folder.mkdir(parents=True)
    (tree / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    (tree / "README.md").write_text(readme)
    log = tmp_path / "log"
    tool = f'#!/bin/sh\necho "$(basename "$0") $*" >> {log}\n[ "$(basename "$0")" != "{failing}" ]\n'
    python = ('#!/bin/sh\nmkdir -p "$3/bin"\nfor name in pip pytest ruff; do\n'
              f'cat > "$3/bin/$name" <<"END"\n{tool}END\nchmod +x "$3/bin/$name"\ndone\n')
    (tools / "python").write_text(python)
    (tools / "python").chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tools / "python"), "TMPDIR": str(temporary)}
    done = subprocess.run(["bash", str(tree / ".ci/run")], env=environment, capture_output=True, text=True)
    assert list(temporary.iterdir()) == []
    return done, log.read_text().splitlines() if log.exists() else []


def test_ci_runs_the_readme_command(tmp_path):
    done, calls = ci(tmp_path, "pip install outside && pytest\n```\npip install -e '.[test]' && pytest -k y\n```\n")
    assert done.returncode == 0, done.stderr
    assert calls == ["pip install -e .[test]", "pytest -k y", "pip install --quiet -e .[dev]", "ruff check ."]


@pytest.mark.parametrize("failing", ["pytest", "ruff", "pip"])
def test_ci_fails_when_a_step_fails(tmp_path, failing):
    done, calls = ci(tmp_path, f"```\n{COMMAND}\n```\n", failing)
    assert done.returncode != 0 and calls[-1].startswith(failing)


def test_ci_refuses_a_readme_without_the_command(tmp_path):
    done, calls = ci(tmp_path, f"{COMMAND}\n")
    assert done.returncode == 1 and "exactly one fenced line" in done.stderr and not calls


def test_readme_holds_the_command_once():
    fenced = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert [line for block in fenced for line in block.splitlines() if "pytest" in line].count(COMMAND) == 1


def test_ci_is_executable_and_names_no_host():
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert not re.search(r"https?://|pypi|index-url", (ROOT / ".ci/run").read_text())

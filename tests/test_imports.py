"""Imports flow one way, and importing has no effect but registering."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "alignvar_arch"
# Lower layers first; a module imports its own and lower layers only.
LAYERS = [["errors", "version", "machine", "output", "hashing"], ["checkpoints"], ["compat"], ["archs.scales"],
          ["archs.layers"], ["archs.tokenizer", "archs.transformer", "archs.lpips"], ["archs.tokenizer_arch"],
          ["archs.alignvar_arch"], ["archs"], ["losses", "metrics", "data", "inference", "training"], ["models"],
          ["options"], ["compare", "diagnose", "speed"], ["cli"]]
LEVEL = {f"alignvar_arch.{name}": level for level, names in enumerate(LAYERS) for name in names}


def level(module: str) -> int:
    """The layer of a module: the one of the longest listed prefix; the package itself stands below everything."""
    while module not in LEVEL and "." in module:
        module = module.rpartition(".")[0]
    return LEVEL.get(module, -1)


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("alignvar_arch")}


def modules() -> list[Path]:
    top = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
    return sorted(set(PACKAGE.rglob("*.py")) - top)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    own = ".".join(("alignvar_arch", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    assert level(own) >= 0, f"{own} stands in no layer"
    assert not {name for name in imported(path) if level(name) > level(own)}


def test_importing_makes_nothing_and_reads_no_arguments(tmp_path):
    code = ("import sys, torch; sys.argv = ['x', '--nonsense']; threads = torch.get_num_threads(); "
            "import alignvar_arch; "
            "assert not torch.cuda.is_initialized() and torch.get_default_dtype() == torch.float32; "
            "assert torch.get_num_threads() == threads; import basicsr; "
            "from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY, LOSS_REGISTRY, DATASET_REGISTRY; "
            "assert 'AlignVAR' in ARCH_REGISTRY and 'AlignVARTokenizer' in ARCH_REGISTRY; "
            "assert 'SwinIR' in ARCH_REGISTRY; "
            "assert 'AlignVARModel' in MODEL_REGISTRY and 'HCCLoss' in LOSS_REGISTRY; "
            "assert 'PhotoDataset' in DATASET_REGISTRY")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert not list(tmp_path.iterdir())

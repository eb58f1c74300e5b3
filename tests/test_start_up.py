"""Start of commands: which slow packages they import before they do anything."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from test_import_circles import PACKAGE, module_name

NEVER = (
    "matplotlib onnxruntime openvino pandas ray scipy sklearn sympy tensorboard torchmetrics transformers triton zarr"
)
"""Packages that no command needs before it runs, most of which take a second or more."""
COMMANDS = {
    "train": "onnx pyarrow timm torchvision",
    "finetune": "onnx pyarrow timm",
    "embed": "lightning_fabric onnx timm torch torchvision",
    "predict": "lightning_fabric onnx pyarrow timm torchvision",
    "serve": "lightning_fabric onnx pyarrow timm torchvision",
    "export": "lightning_fabric timm torchvision",
    "evaluate": "lightly",
    "verify": "lightning_fabric timm torchvision",
    "info": "lightning_fabric timm torch torchvision",
}
"""Further packages that the modules of a command do not import at their top."""
FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports(module: str, inside_functions: bool = False) -> set[str]:
    """Modules that a module imports when it is imported, or also when its functions run; not those for types alone."""
    imported: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            imported.update(submodules or {node.module})
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")))
    return imported


def packages_at_start(command: str) -> dict[str, str]:
    """Packages that the modules of a command import, each with one module that does."""
    imported: dict[str, str] = {}
    base = f"gtsa_kit.cli.{command}"
    own = {module for module in FILES if module == base or module.startswith(f"{base}.")}
    waiting, seen = set(own), set[str]()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for name in imports(module, inside_functions=module in own):
            if name in FILES:
                parents = {".".join(name.split(".")[:depth]) for depth in range(2, name.count(".") + 2)}
                waiting |= parents - seen
            else:
                imported[name.partition(".")[0]] = module
    return imported


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_slow_packages_where_it_uses_them(command: str) -> None:
    packages = packages_at_start(command)
    assert "numpy" in packages  # so that the search finds something
    slow = {name: packages[name] for name in f"{NEVER} {COMMANDS[command]}".split() if name in packages}
    assert not slow


def test_whole_jobs_load_no_library_that_they_do_not_use(
    tiny_onnx: Path, tiny_run: Path, few: Path, tmp_path: Path
) -> None:
    """Libraries import others when they run: pyarrow pandas, timm torchvision, torch's optimizers torch._dynamo."""
    train = ["train", few, "--preset", "quick", "--set", "model.arch=vit_test", "--batch-size", 2, "--dry-run"]
    jobs = {
        f"{NEVER} timm torchvision torch._dynamo torch.onnx": [
            ["embed", few, "--model", tiny_onnx, "--out", tmp_path / "by_file"],
            ["embed", few, "--model", tiny_run, "--out", tmp_path / "by_run"],
        ],
        # Fabric imports torch._dynamo, which imports sympy and Triton.
        f"{NEVER} timm torchvision": [[*train, "--steps", 1, "--workers", 0, "--out", tmp_path / "run"]],
    }
    needed = {"embed": {"onnxruntime"}, "train": {"onnxruntime", "sympy", "triton"}}
    code = f"""
import gc, sys
from gtsa_kit.cli import main
for names, commands in {_texts(jobs)}:
    for command in commands:
        sys.argv[1:] = command
        try:
            main()
        except SystemExit as ended:
            assert not ended.code, command
        slow = set(names.split()) - {needed}[command[0]]
        assert "torch" in sys.modules and not slow & sys.modules.keys(), (command, slow & sys.modules.keys())
        assert gc.isenabled()
        assert gc.get_freeze_count() > 100_000  # modules are not searched for reference cycles
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "estimate; nothing was written" in done.stdout  # the last command


def _texts(jobs: dict[str, list[list[object]]]) -> list[tuple[str, list[list[str]]]]:
    return [(names, [[str(word) for word in command] for command in commands]) for names, commands in jobs.items()]

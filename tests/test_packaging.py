"""What is shipped: the wheel works outside the checkout and brings its configs; the sdist holds the sources only."""

import ast
import os
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it; its requirements are those of the environment that tests."""
    place = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    python = place / "bin" / "python"
    wheel = next(built.glob("*.whl"))
    _run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=place)
    packages = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip()
    (Path(packages) / "requirements.pth").write_text("\n".join(site.getsitepackages()))
    return place


def test_the_wheel_brings_its_configs(installed: Path) -> None:
    code = "import kdc.compose as it; print(it.__file__); print(it.config_dir()); print(it.compose([]).dataset.name)"
    module, configs, dataset = _run(installed / "bin" / "python", "-c", code, cwd=installed).splitlines()
    assert Path(module).is_relative_to(installed)
    assert Path(configs) == Path(module).parent / "configs"
    assert dataset == "stdlib_docs"
    shipped = {path.relative_to(configs) for path in Path(configs).rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}


def test_the_installed_command_works(installed: Path) -> None:
    kdc = installed / "bin" / "kdc"
    assert (
        _run(kdc, "--version", cwd=installed).split()[-1]
        == _run(installed / "bin" / "python", "-c", "import kdc; print(kdc.__version__)", cwd=installed).strip()
    )
    assert "bert_tiny" in _run(kdc, "list", "teacher", cwd=installed)
    assert "teacher:" in _run(kdc, "run", "--cfg", "job", cwd=installed)


def test_the_wheel_brings_what_is_no_python(built: Path) -> None:
    """Templates of pages, the schema of records: whatever lies in the package beside its modules."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("kdc/") and not name.endswith(".py")}
    lying = {path for path in (ROOT / "kdc").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {name for name in shipped if not name.startswith("kdc/configs/")} == {
        path.relative_to(ROOT).as_posix() for path in lying
    }
    assert "kdc/report/templates/layout.html.jinja" in shipped


def test_the_sdist_holds_the_sources_only(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        top = {Path(name).parts[1] for name in archive.getnames()}
    expected = {"kdc", "configs", "tests", "scripts", "README.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
    assert top - {".gitignore"} == expected


def _project() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"kdc": project["dependencies"], **project["optional-dependencies"]}


def test_constraints_cover_what_kdc_requires() -> None:
    lines = (line for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = dict(line.split("==") for line in lines)
    for requirement in map(Requirement, (*_project()["kdc"], *_project()["dev"])):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)


def _imported() -> Iterator[str]:
    for path in (ROOT / "kdc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.partition(".")[0]


def test_every_import_is_declared() -> None:
    declared = {canonicalize_name(Requirement(line).name) for lines in _project().values() for line in lines}
    providers = packages_distributions()
    bundled = {"kdc", "pydantic_core"}  # pydantic pins its core itself
    for module in set(_imported()) - sys.stdlib_module_names - bundled:
        assert declared & {canonicalize_name(name) for name in providers.get(module, [])}, f"{module} is not declared"

"""What is installed is the gateway, whole, and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_sdist_and_the_wheel_made_of_it_hold_every_file_of_the_package_and_no_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "gateway", source / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    # The tests and the sample upstream lie beside the package in a clone.
    for name in ("tests", "upstream", "benchmarks"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
        (source / name / "test_it.py").touch()
    expected = {str(path.relative_to(source)) for path in (source / "gateway").rglob("*") if path.is_file()}

    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        paths = {member.name.partition("/")[2] for member in archive if member.isfile()}
    files = {path for path in paths if ".egg-info/" not in path}
    assert files == {*expected, "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "setup.cfg"}

    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, sdist], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == expected


def test_the_version_is_written_by_hand_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = project.partition('\nversion = "')[2].partition('"')[0]
    named = [path for path in (ROOT / "gateway").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    named += [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.y*ml")]
    assert [str(path) for path in named if version in path.read_text()] == []

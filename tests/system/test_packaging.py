"""What is installed is the gateway, whole, and nothing else."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from outer_proxies import running
from processes import ROOT, free_port
from running import ask


@pytest.mark.slow
def test_sdist_and_the_wheel_made_of_it_hold_every_file_of_the_package_and_no_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "gateway", source / "gateway", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
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
    assert files == {
        *expected,
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
        "PKG-INFO",
        "setup.cfg",
    }

    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, sdist], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert files == expected


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dist/ that a release of this commit makes, in a clone of its own."""
    place = tmp_path_factory.mktemp("release")
    subprocess.run(["git", "clone", "--quiet", ROOT, place / "clone"], check=True)
    (place / "sbom.json").write_text("{}")
    _release(place / "clone")
    return place / "clone/dist"


def _release(clone: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, clone / ".ci/release.py", clone.parent / "sbom.json"]
    return subprocess.run(command, cwd=clone, check=True, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no clone")
class TestRelease:
    def test_the_provenance_tells_the_digest_of_every_file_and_the_commit(self, release: Path) -> None:
        (path,) = release.glob("*.provenance.json")
        statement = json.loads(path.read_text())
        digests = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
        files = [each for each in release.iterdir() if each != path]
        assert sorted(each.suffix for each in files) == [".gz", ".json", ".whl"]
        assert digests == {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=release, check=True, capture_output=True, text=True)
        (commit, _) = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        assert commit["digest"] == {"gitCommit": head.stdout.strip()}

    def test_a_release_is_made_twice_the_same(self, release: Path) -> None:
        before = {path.name: path.read_bytes() for path in release.iterdir() if path.suffix in (".whl", ".gz")}
        _release(release.parent)
        assert len(before) == 2
        assert [name for name, content in before.items() if (release / name).read_bytes() != content] == []

    def test_what_is_not_committed_is_not_released(self, release: Path) -> None:
        changed = release.parent / "README.md"
        text = changed.read_text()
        changed.write_text(text + "changed")
        with pytest.raises(subprocess.CalledProcessError) as refused:
            _release(release.parent)
        changed.write_text(text)
        assert refused.value.stderr == "make release: commit first, for a release is made of a commit\n"

    def test_the_version_is_the_tags_and_a_commit_without_one_is_a_development_release(self, release: Path) -> None:
        clone, version = release.parent, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        (wheel,) = release.glob("*.whl")
        assert re.match(rf"jwt_blacklist_gateway-{re.escape(version)}\.dev\d+\+g[0-9a-f]{{12}}-", wheel.name)
        assert self.version_under(clone, f"v{version}") == f"{version}\n"
        assert self.version_under(clone, "v9.9.9").endswith(f"tagged v9.9.9, and pyproject.toml says {version}\n")

    def version_under(self, clone: Path, tag: str) -> str:
        """Return the version that a release of the clone's commit has under a tag, or what is said against it."""
        asked = [sys.executable, "-c", "import release; print(release.released_version())"]
        environ = {**os.environ, "PYTHONPATH": str(clone / ".ci")}
        subprocess.run(["git", "tag", tag], cwd=clone, check=True)
        done = subprocess.run(asked, env=environ, check=False, capture_output=True, text=True)
        subprocess.run(["git", "tag", "--delete", tag], cwd=clone, check=True, capture_output=True)
        return done.stdout + done.stderr

    @pytest.mark.parametrize("what", ["the wheel", "the address of a clone", "a clone, as the README has it"])
    def test_what_is_installed_is_the_gateway_and_its_sample_api(
        self, release: Path, tmp_path: Path, what: str
    ) -> None:
        clone, target = release.parent, tmp_path / "installed"
        [line] = re.findall(r"^python3 (-m pip install \S+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
        places = {"the wheel": [*release.glob("*.whl")], "the address of a clone": [f"git+file://{clone}"]}
        words = ["-m", "pip", "install", *places[what]] if what in places else line.split()
        quick = ["--quiet", "--no-deps", "--no-build-isolation", "--target", target]
        subprocess.run([sys.executable, *words, *quick], cwd=clone, check=True, capture_output=True)
        where = [sys.executable, "-c", "from gateway.cli import sample; print(sample.__file__)"]
        environ = {**os.environ, "PYTHONPATH": str(target)}
        used = subprocess.run(where, cwd=tmp_path, env=environ, check=True, capture_output=True, text=True)
        assert used.stdout.startswith(str(target))
        if what == "the wheel":
            self._demo_runs(target, tmp_path)

    @staticmethod
    def _demo_runs(installed: Path, directory: Path) -> None:
        port = free_port()
        flags = ["--port", str(port), "--upstream", f"http://127.0.0.1:{free_port()}", "--workers", "1"]
        command = [sys.executable, "-m", "gateway", "demo", *flags]
        with running(command, port, directory, PYTHONPATH=str(installed)):
            assert ask(port, "GET /info").code == "missing-credentials"


def test_the_version_is_written_by_hand_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = project.partition('\nversion = "')[2].partition('"')[0]
    named = [path for path in (ROOT / "gateway").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")]
    named += [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.y*ml")]
    assert [str(path) for path in named if version in path.read_text()] == []

"""Make a release in dist/ that could be published as it is: sdist, wheel, SBOM, provenance. It uploads nothing.

`make release` calls it with the SBOM. All is built of the commit that is checked out, never of files beside it, and
twice the same: the times in the archives are those of the commit.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools.build_meta import build_sdist, build_wheel; import sys; build_{}(sys.argv[1])"


def git(*words: str) -> bytes:
    """Return what git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


def sha256(path: Path) -> str:
    """Return a file's digest, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(place: Path) -> None:
    """Build sdist and wheel of the commit that is checked out."""
    environ = {**os.environ, "SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct").decode().strip()}
    for what in ("sdist", "wheel"):
        with tempfile.TemporaryDirectory() as source:
            with tarfile.open(fileobj=BytesIO(git("archive", "HEAD"))) as archive:
                archive.extractall(source, filter="data")
            command = [sys.executable, "-c", BUILD.format(what), str(place)]
            subprocess.run(command, cwd=source, env=environ, check=True, stdout=subprocess.DEVNULL)


def provenance(subjects: list[Path], version: str) -> dict[str, object]:
    """Return an in-toto statement with SLSA's provenance of the files (slsa.dev/provenance/v1), unsigned."""
    origin = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=ROOT, check=False, capture_output=True, text=True
    ).stdout.strip()
    commit = {"uri": f"git+{origin or 'file:.'}", "digest": {"gitCommit": git("rev-parse", "HEAD").decode().strip()}}
    lock = {"uri": "requirements/build.lock", "digest": {"sha256": sha256(ROOT / "requirements/build.lock")}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": sha256(path)}} for path in subjects],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "make release",
                "externalParameters": {"version": version},
                "internalParameters": {"python": platform.python_version()},
                "resolvedDependencies": [commit, lock],
            },
            "runDetails": {
                "builder": {"id": platform.node()},
                "metadata": {"finishedOn": datetime.now(UTC).isoformat(timespec="seconds")},
            },
        },
    }


def main(sbom: Path) -> None:
    """Write dist/ anew, and print what is in it. Raises SystemExit where commit and version do not agree."""
    if git("status", "--porcelain"):
        sys.exit("make release: commit first, for a release is made of a commit")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = git("tag", "--points-at", "HEAD").decode().split()
    if tags and f"v{version}" not in tags:
        sys.exit(f"make release: this commit is tagged {' '.join(tags)}, and pyproject.toml says {version}")
    place = ROOT / "dist"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    build(place)
    name = f"jwt_blacklist_gateway-{version}"
    shutil.copy(sbom, place / f"{name}.sbom.json")
    statement = provenance(sorted(place.iterdir()), version)
    (place / f"{name}.provenance.json").write_text(json.dumps(statement, indent=2) + "\n")
    for path in sorted(place.iterdir()):
        print(sha256(path), path.relative_to(ROOT))


main(Path(sys.argv[1]).resolve())

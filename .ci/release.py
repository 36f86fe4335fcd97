"""Make a release in dist/ that could be published as it is: sdist, wheel, image, SBOM, provenance. It uploads nothing.

`make release` calls it with the SBOM and --image. All is built of the commit that is checked out, never of files beside
it; sdist and wheel twice the same: the times in the archives are those of the commit. The version is that of the
commit's tag, `v<version of pyproject.toml>`; a commit without one makes a development release of it (PEP 440).
"""

import gzip
import hashlib
import json
import os
import platform
import re
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


def released_version() -> str:
    """Return the version that this commit is. Raises SystemExit where its tag and pyproject.toml do not agree."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = [tag for tag in git("tag", "--points-at", "HEAD").decode().split() if tag.startswith("v")]
    if tags and f"v{version}" not in tags:
        sys.exit(f"make release: this commit is tagged {' '.join(tags)}, and pyproject.toml says {version}")
    if tags:
        return version
    count, commit = git("rev-list", "--count", "HEAD").decode().strip(), git("rev-parse", "--short=12", "HEAD")
    return f"{version}.dev{count}+g{commit.decode().strip()}"


def extract(source: str, version: str) -> None:
    """Write the commit's files, with their version, to a folder."""
    with tarfile.open(fileobj=BytesIO(git("archive", "HEAD"))) as archive:
        archive.extractall(source, filter="data")
    project = Path(source, "pyproject.toml")
    project.write_text(re.sub('(?m)^version = "[^"]+"', f'version = "{version}"', project.read_text(), count=1))


def build(place: Path, version: str) -> None:
    """Build sdist and wheel of the commit that is checked out."""
    seconds = int(git("log", "-1", "--format=%ct"))
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds)}
    for what in ("sdist", "wheel"):
        with tempfile.TemporaryDirectory() as source:
            extract(source, version)
            command = [sys.executable, "-c", BUILD.format(what), str(place)]
            subprocess.run(command, cwd=source, env=environ, check=True, stdout=subprocess.DEVNULL)
    for sdist in place.glob("*.tar.gz"):
        settle(sdist, seconds)


def settle(path: Path, seconds: int) -> None:
    """Write an sdist anew, with one time and nobody's name: setuptools heeds SOURCE_DATE_EPOCH in wheels alone."""
    with tarfile.open(path) as archive:
        files = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        contents = {member.name: file.read() for member, file in files if file}
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=seconds) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member, _ in sorted(files, key=lambda each: each[0].name):
            member.mtime, member.pax_headers = seconds, {}
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            archive.addfile(member, BytesIO(contents.get(member.name, b"")))


def build_image(path: Path, version: str) -> bool:
    """Build the gateway's image, labelled by what it is of, and write it to a file; return False without an engine."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], check=False, capture_output=True).returncode:
        return False
    name = f"jwt-blacklist-gateway:{version.replace('+', '-')}"
    told = {
        "version": version,
        "revision": git("rev-parse", "HEAD").decode().strip(),
        "created": git("log", "-1", "--format=%cI").decode().strip(),
        "source": origin(),
    }
    labels = [f"--label=org.opencontainers.image.{member}={value}" for member, value in told.items() if value]
    with tempfile.TemporaryDirectory() as source:
        extract(source, version)
        command = ["docker", "build", "--target", "gateway", "--tag", name, *labels, source]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["docker", "save", "--output", path, name], check=True)
    return True


def origin() -> str:
    """Return where the repository comes from, "" where it has been nowhere else."""
    asked = subprocess.run(
        ["git", "remote", "get-url", "origin"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return re.sub("(?<=://)[^/@]*@", "", asked.stdout.strip())  # no credentials


def provenance(subjects: list[Path], version: str) -> dict[str, object]:
    """Return an in-toto statement with SLSA's provenance of the files (slsa.dev/provenance/v1), unsigned."""
    commit = {"uri": f"git+{origin() or 'file:.'}", "digest": {"gitCommit": git("rev-parse", "HEAD").decode().strip()}}
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


def main(sbom: Path, *, with_image: bool) -> None:
    """Write dist/ anew, and print what is in it."""
    if changed := git("status", "--porcelain"):
        print(changed.decode(errors="replace"), end="")
        sys.exit("make release: commit first, for a release is made of a commit")
    version = released_version()
    place = ROOT / "dist"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    build(place, version)
    name = f"jwt_blacklist_gateway-{version}"
    described = json.loads(sbom.read_text())
    described.get("metadata", {}).get("component", {})["version"] = version
    (place / f"{name}.sbom.json").write_text(json.dumps(described, indent=2) + "\n")
    if with_image and not build_image(place / f"{name}.image.tar", version):
        print("make release: no Docker engine answers, so there is no image", file=sys.stderr)
    statement = provenance(sorted(place.iterdir()), version)
    (place / f"{name}.provenance.json").write_text(json.dumps(statement, indent=2) + "\n")
    for path in sorted(place.iterdir()):
        print(sha256(path), path.relative_to(ROOT))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), with_image="--image" in sys.argv[2:])

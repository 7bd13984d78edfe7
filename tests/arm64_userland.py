"""An arm64 Debian in a folder, with Python and TVM, for qemu-user: `python -m tests.arm64_userland DIR`.

Needs apt (whose sources must offer arm64), dpkg-deb, qemu-user and pip. Nothing of this computer's own
packages is touched, and root is not needed. A folder that is complete is left as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_DEBIAN = ("python3-minimal", "python3", "libstdc++6", "zlib1g")
_PYTHON = (
    "apache-tvm==0.27.0.post1",
    "apache-tvm-ffi==0.1.14.post1",
    "numpy",
    "ml_dtypes",
    "typing_extensions",
    "psutil",
    "cloudpickle",
    "tornado",
)
_GLIBC = ("2_28", "2_27", "2_17", "2014")
_DONE = "complete"


def missing_tools() -> list[str]:
    return [t for t in ("apt-get", "dpkg-deb", "qemu-aarch64") if shutil.which(t) is None]


def set_up(folder: Path) -> None:
    """Errors: CalledProcessError with what a tool says."""
    if (folder / _DONE).exists():
        return
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    unpack_debian(_DEBIAN, folder / "apt", root)
    version = max(root.glob("usr/bin/python3.*[0-9]")).name.removeprefix("python")
    _fetch_python(root / "packages", version)
    (folder / _DONE).touch()


def python_command(folder: Path) -> list[str]:
    """Runs the folder's Python; PYTHONPATH must name `packages_of` and what else is wanted."""
    root = folder / "root"
    program = max(root.glob("usr/bin/python3.*[0-9]"))
    return ["qemu-aarch64", "-L", str(root), str(program)]


def packages_of(folder: Path) -> Path:
    return folder / "root" / "packages"


def unpack_debian(packages: Sequence[str], state: Path, root: Path) -> None:
    """Downloads packages and all that they depend on, into a state of apt's own, and unpacks them in root.

    Errors: CalledProcessError with what a tool says.
    """
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache::archives": str(state / "archives"),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "Debug::NoLocking": "true",
    }
    settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", *settings, "-qq", "update"], check=True)
    subprocess.run(["apt-get", *settings, "-qq", "-y", "--download-only", "install", *packages], check=True)
    for package in sorted((state / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)


def _fetch_python(packages: Path, version: str) -> None:
    platforms = [word for v in _GLIBC for word in ("--platform", _platform(v))] + ["--platform", "any"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--upgrade"]
    environment = {k: v for k, v in os.environ.items() if k != "PIP_CONSTRAINT"}
    subprocess.run(
        [*command, *platforms, "--python-version", version, "--target", str(packages), *_PYTHON],
        check=True,
        env=environment,
    )


def _platform(version: str) -> str:
    return f"manylinux{'_' if '_' in version else ''}{version}_aarch64"


if __name__ == "__main__":
    set_up(Path(sys.argv[1]).absolute())

"""Engines that are measured beside ours but are no dependencies: each in a virtual environment of its own.

    python -m benchmarks.peers                      # which are there
    python -m benchmarks.peers install openvino litert ncnn

An environment lies in bitloom's cache folder, or where the variable says that names its Python:
BITLOOM_OPENVINO_PYTHON, BITLOOM_LITERT_PYTHON, BITLOOM_NCNN_PYTHON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from compiler.lowering.cache import default_folder


@dataclass(frozen=True, slots=True)
class Peer:
    """requirements: as pip takes them; the versions that figures in the documents are of."""

    name: str
    requirements: tuple[str, ...]

    @property
    def variable(self) -> str:
        return f"BITLOOM_{self.name.upper()}_PYTHON"

    @property
    def folder(self) -> Path:
        return default_folder() / "peers" / self.name

    @property
    def python(self) -> Path | None:
        """Its interpreter, None where it is not installed."""
        named = os.environ.get(self.variable)
        path = Path(named) if named else self.folder / "bin" / "python"
        return path if path.is_file() else None

    @property
    def remedy(self) -> str:
        command = f"python -m benchmarks.peers install {self.name}"
        return f"{command}, or let {self.variable} name a Python that has it"

    def install(self) -> None:
        """Makes the environment anew. Errors: CalledProcessError, after pip has said why."""
        venv.create(self.folder, clear=True, with_pip=True)
        subprocess.run(
            [self.folder / "bin" / "python", "-m", "pip", "install", *self.requirements], check=True
        )


OPENVINO = Peer("openvino", ("openvino==2026.4.*", "nncf==3.4.*"))
LITERT = Peer("litert", ("ai-edge-litert==2.3.*",))
# pnnx is a program whose package asks for PyTorch: gigabytes that it does not need to convert ONNX.
NCNN = Peer("ncnn", ("--no-deps", "ncnn==1.0.20261020", "pnnx==20261020", "numpy"))
ALL = {peer.name: peer for peer in (OPENVINO, LITERT, NCNN)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action")
    install = actions.add_parser("install", help="make or renew environments")
    install.add_argument("names", nargs="+", choices=ALL)
    arguments = parser.parse_args()
    for name in arguments.names if arguments.action == "install" else ():
        try:
            ALL[name].install()
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
    for peer in ALL.values():
        print(f"{peer.name:<10} {peer.python or f'not installed: {peer.remedy}'}")


if __name__ == "__main__":
    main()

"""An ssh server on this computer that stands for a board, with keys and a port of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv TMPDIR={folder}/board
"""
_CLIENT = """\
Host *
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
"""


@dataclass(frozen=True, slots=True)
class Loopback:
    """runner: its name for `load`. temporary: where temporary files of the board lie."""

    runner: str
    temporary: Path


@contextmanager
def loopback_sshd(folder: Path) -> Iterator[Loopback]:
    """Puts an `ssh` that uses the keys in `folder` first on PATH. Skips where sshd cannot be started."""
    ssh = shutil.which("ssh")
    if ssh is None or not Path(SSHD).exists():
        pytest.skip("ssh or sshd is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _write(folder, port, ssh)
    config = str(folder / "sshd_config")
    tested = subprocess.run([SSHD, "-t", "-f", config], capture_output=True, text=True, check=False)
    if tested.returncode != 0:
        pytest.skip(f"sshd cannot be started here: {tested.stderr.strip()}")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
            yield Loopback(f"ssh:{getpass.getuser()}@127.0.0.1:{port}", folder / "board")
    finally:
        server.terminate()
        server.wait()


def _write(folder: Path, port: int, ssh: str) -> None:
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "sshd_config").write_text(_SERVER.format(port=port, folder=folder))
    (folder / "ssh_config").write_text(_CLIENT.format(folder=folder))
    for name in ("board", "bin"):
        (folder / name).mkdir()
    client = folder / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/ssh_config "$@"\n')
    client.chmod(0o755)


def _wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")

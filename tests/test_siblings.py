"""A user's folder named like one of our packages is reported, never imported in silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # `-c` puts the working directory in front of PYTHONPATH, as an interactive session does.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["compiler", "schedules", "sim", "targets"])
def test_a_folder_of_the_same_name_is_refused(tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('imported the wrong package')\n")
    done = python("import bitloom", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: bitloom needs its package {name!r} from {ROOT / name}, but Python finds {other}; "
        "rename that folder or start Python elsewhere"
    )


def test_a_folder_without_python_files_is_no_rival(tmp_path: Path) -> None:
    """Namespace packages give way to real ones."""
    (tmp_path / "sim").mkdir()
    (tmp_path / "sim" / "results.csv").write_text("1,2\n")
    done = python("import bitloom, sim; print(sim.__file__)", tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == ROOT / "sim"


def test_an_unknown_attribute_is_named() -> None:
    done = python("import bitloom; bitloom.compyle", ROOT)
    assert "module 'bitloom' has no attribute 'compyle'" in done.stderr

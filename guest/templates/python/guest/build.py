"""Builds guest.wasm with componentize-py, which it fetches into .venv at first."""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
VENV = HERE / ".venv"
PROGRAMS = VENV / ("Scripts" if sys.platform == "win32" else "bin")


def run(program: str, *arguments: str) -> None:
    subprocess.run([PROGRAMS / program, *arguments], cwd=HERE, check=True)


if not VENV.exists():
    venv.create(VENV, with_pip=True)
run("pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt")
# Imports must stand at the top of a file: nothing can be imported later.
run("componentize-py", "-d", "wit", "-w", "guest", "componentize", "app", "-o", "guest.wasm")

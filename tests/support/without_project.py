"""Python where only the published dependencies are importable, as on the machine of someone who downloads a model."""

import os
import subprocess
import sys
from pathlib import Path

BLOCKED = 'import sys; sys.modules.update(dict.fromkeys(["cardiff", "pipelines", "schedulers"]))\n'


def run_without_project(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code in `folder` with neither PYTHONPATH nor the working directory on the path, and the project blocked."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "hf_modules")}
    command = [sys.executable, "-I", "-c", BLOCKED + code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    return result

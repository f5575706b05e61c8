"""Installs the wheel of `dist/` in fresh environments, and runs the doors of README.md from it.

    python tests/doors.py

For each Python that the project supports and that is found; `make dist` calls it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = "python3.11", "python3.12", "python3.13"
EXTRAS = "numpyro"  # the doors have a numpyro model


def doors() -> str:
    """The Python blocks of README.md, in order."""
    text = (ROOT / "README.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def runs(python: str) -> bool:
    """Whether there is such a Python; some are names of nothing."""
    found = shutil.which(python)
    return bool(found) and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0


def check(python: str, wheel: Path) -> None:
    """Installs the wheel for this Python and runs the doors, outside of the repository."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "env", "bin", "python")
        script = Path(folder, "doors.py")
        script.write_text(f"{doors()}\nassert 'site-packages' in flows.__file__, flows.__file__\n")
        pinned = ["-c", ROOT / "constraints.txt", f"{wheel}[{EXTRAS}]"]
        for command in (
            [python, "-m", "venv", own.parents[1]],
            [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned],
            [own, script],
        ):
            subprocess.run(command, cwd=folder, check=True)


def main() -> None:
    """Checks every Python that is found."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    found = [python for python in PYTHONS if runs(python)]
    if not found:
        sys.exit(f"None of {', '.join(PYTHONS)} is found.")
    for python in found:
        print(f"{wheel.name}: {python}", flush=True)
        check(python, wheel)
    missing = [python for python in PYTHONS if python not in found]
    print("passed: " + ", ".join(found), *(f"(not found: {python})" for python in missing))


if __name__ == "__main__":
    main()

"""What `import flows` costs above importing the libraries it stands on.

Starts fresh interpreters in turn, A B A B ..., and prints the median of the paired differences.
"""

import json
import statistics
import subprocess
import sys
import time

import tables
from timing import about

PAIRS = 9
BASELINE = "import distrax, flax.nnx, optax"
RESULT = tables.RESULTS / "import_time.json"


def seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs one statement."""
    clock = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - clock


def main() -> None:
    """Measures, prints and writes the JSON."""
    seconds("import flows")  # fills the caches
    pairs = [(seconds("import flows"), seconds(BASELINE)) for _ in range(PAIRS)]
    extra = [ours - theirs for ours, theirs in pairs]
    summary = {
        "import flows, median s": statistics.median(ours for ours, _ in pairs),
        f"{BASELINE}, median s": statistics.median(theirs for _, theirs in pairs),
        "difference, median s": statistics.median(extra),
        "difference, min s": min(extra),
        "difference, max s": max(extra),
        "pairs": PAIRS,
        **about(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(summary, indent=2) + "\n")
    print(tables.of_import_time(summary))


if __name__ == "__main__":
    main()

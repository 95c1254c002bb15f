"""What importing costs: the package, its models, and the packages that it stands on.

Each is imported in fresh processes, in turns; medians of processor time above that of bare Python. Run
with ``python benchmarks/imports.py``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from _machine import describe_machine, write_record

CODE = {
    "bare": "pass",
    "import rankbygene": "import rankbygene",
    "rankbygene.model": "import rankbygene; rankbygene.model",
    "import torch": "import torch",
    "import spatialdata": "import spatialdata",
    "import scvi": "import scvi",
}
CLOCK = "import resource; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime, u.ru_maxrss)"


def main() -> None:
    """Import everything a few times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/imports.json"))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CODE}
    memory: dict[str, list[float]] = {name: [] for name in CODE}
    for _ in range(arguments.repeats):
        for name, code in CODE.items():
            command = [sys.executable, "-c", f"{code}; {CLOCK}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            used, peak = map(float, done.stdout.split())
            seconds[name].append(used)
            memory[name].append(peak / 1024)
    bare = statistics.median(seconds["bare"])
    rows = {
        name: {
            "cpu_s": round(statistics.median(seconds[name]) - bare, 4),
            "peak_mib": round(statistics.median(memory[name])),
        }
        for name in CODE
        if name != "bare"
    }
    scvi = rows["import scvi"]["cpu_s"]
    print("| | processor time | of `import scvi` | memory |\n| --- | ---: | ---: | ---: |")
    for name, row in rows.items():
        share = f"{row['cpu_s'] / scvi:.2%}"
        print(f"| {name} | {row['cpu_s']:.3f} s | {share} | {row['peak_mib']} MiB |")
    record = {"machine": describe_machine(), "results": rows}
    write_record(record, arguments.out)


if __name__ == "__main__":
    main()

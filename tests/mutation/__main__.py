"""`python -m tests.mutation [--count N] [--seed N] [MODULE ...]`: mutants of the riskiest policies that no test kills.

Each mutant stands in a copy of the tree; the module's own unit tests run against it, one process each, at the lowest
priority. A mutant survives where all of them pass. `--count` chooses so many of a module's mutants by the seed.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.mutation.mutants import Mutant, mutants

ROOT: Final = Path(__file__).resolve().parents[2]
_MEMORY_STORE: Final = (
    "../contracts/test_limit_stores.py", "../backends/store/test_memory.py",
    "-k", "not redis and not single and not sentinel and not cluster",
)  # fmt: skip
"""Contract of the limit stores, on memory alone: it runs the arithmetic of the strategies."""
TESTS: Final = {
    "policies/resilience/retry.py": ["resilience/test_retry.py", "resilience/test_retry_after.py"],
    "policies/resilience/retry_budget.py": ["resilience/test_retry_budget.py", "resilience/test_retry_outage.py"],
    "policies/resilience/breaker.py": ["resilience/test_breaker.py", "resilience/test_breaker_machine.py"],
    "policies/resilience/ejection.py": ["resilience/test_ejection.py", "resilience/test_ejection_machine.py"],
    "policies/resilience/pause.py": ["resilience/test_pause.py"],
    "policies/resilience/health.py": ["resilience/test_health.py"],
    "policies/capacity/admission.py": ["capacity/test_admission.py", "capacity/test_admission_machine.py"],
    "policies/capacity/fair_queue.py": ["capacity/test_fair_queue.py"],
    "policies/limits/token_bucket.py": ["limits/test_arithmetic.py", *_MEMORY_STORE],
    "policies/limits/fixed_window.py": ["limits/test_arithmetic.py", *_MEMORY_STORE],
    "policies/request/routing.py": ["request/test_routing.py"],
    "policies/request/first_content.py": ["request/test_first_content.py"],
}
"""Module -> its unit tests, below tests/policies."""
SECONDS: Final = 120


def passes(place: Path, module: str, source: str) -> bool:
    """Run the module's tests against one source in the tree at `place`; a source that hangs does not pass. Raises
    RuntimeError where pytest itself failed: that is no verdict."""
    (place / module).write_text(source)
    shutil.rmtree(place / Path(module).parent / "__pycache__", ignore_errors=True)
    tests = [f"tests/policies/{name}" if name.endswith(".py") else name for name in TESTS[module]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "SLUICE_SEED": "1"}
    try:
        done = subprocess.run(
            ["nice", "-n", "19", *command], cwd=place, env=environment, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{module}: pytest ended with {done.returncode}\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def examine(module: str, count: int | None, seed: int) -> tuple[int, list[Mutant]]:
    """Return how many mutants of a module were tried, and those that survived."""
    source = (ROOT / module).read_text()
    every = list(mutants(source))
    if count is not None and count < len(every):
        chosen = set(random.Random(seed).sample(range(len(every)), count))
        every = [mutant for number, mutant in enumerate(every) if number in chosen]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for folder in ("gateway", "backends", "policies", "tests"):
            shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        if not passes(place, module, source):
            raise RuntimeError(f"{module}: its tests do not pass as it is")
        return len(every), [mutant for mutant in every if passes(place, module, mutant.source)]


def main() -> int:
    """Print the survivors of each module; 1 where there is one."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"default: {', '.join(TESTS)}")
    parser.add_argument("--count", type=int, help="mutants of each module (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wanted = options.modules or list(TESTS)
    lost = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda module: (module, *examine(module, options.count, options.seed)), wanted)
        for module, tried, left in found:
            lost += len(left)
            sys.stdout.write(f"{module}: {tried} mutants, {len(left)} survived\n")
            for mutant in left:
                sys.stdout.write(f"    line {mutant.line}: {mutant.change}\n")
            sys.stdout.flush()
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())

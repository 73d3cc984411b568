"""`sluice schema`: the JSON Schema of the policy file, for editors and for the docs."""

import json
import sys

from policies.config.schema import policy_schema


def run() -> int:
    """Print to stdout; exit code 0."""
    sys.stdout.write(json.dumps(policy_schema(), indent=2) + "\n")
    return 0

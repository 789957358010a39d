"""What a report says."""

import json


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def values(found):
    return {name: estimate["value"] for name, estimate in found["metrics"].items()}

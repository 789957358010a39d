"""Whether our FID is the one that everyone reports: the training images of CIFAR-10 against its test images.

python benchmarks/fid_protocol.py --train 'data/local/cifar10/train-*.parquet' \
    --test 'data/local/cifar10/test-*.parquet' --weights default_1.pt --output docs/evaluation/fid_protocol.json

The literature has 3.15 for all 50,000 training images against all 10,000 test images. Fewer images give more, by about
c/N, so the FID is taken at several numbers of the first images of both sets, and the straight line in 1/N is followed
to infinity and to 50,000 against 10,000.

Features are kept under --work in parts, so the command can be stopped at any time and goes on when it is run again. On
a CPU core it sees 4 to 6 images a second, about 35 minutes for 5,000 of each set. The file is written anew at every
number of images that is reached.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from cardiff.config.sections import DataConfig
from cardiff.data import ImageStore, open_store
from cardiff.evaluation.features.network import FeatureNetwork
from cardiff.evaluation.features.networks import load_network
from cardiff.evaluation.metrics.frechet import frechet_distance
from cardiff.files import written_aside

SIZES = (1000, 2500, 5000, 10_000)
PART = 50  # images in one pass and file
LITERATURE = {"train": 50_000, "test": 10_000, "fid": 3.15}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="parquet files of the training set")
    parser.add_argument("--test", required=True, help="parquet files of the test set")
    parser.add_argument("--images", type=int, default=5000, help="images of each set, at most (default: 5000)")
    parser.add_argument("--weights", help="file of the Inception, if it is not where it is looked for")
    parser.add_argument("--work", type=Path, default=Path("runs/fid_protocol"), help="folder of the features")
    parser.add_argument("--output", type=Path, default=Path("docs/evaluation/fid_protocol.json"))
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network("inception", weights=options.weights, device=device)
    sets = {
        name: open_store(DataConfig(data_files=files, resolution=32, channels=3), conditional=False)
        for name, files in (("train", options.train), ("test", options.test))
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    parts, fids = {name: [] for name in sets}, {}
    with tqdm(total=2 * options.images, unit="img", mininterval=10) as bar:
        for first in range(0, options.images, PART):
            rows = range(first, min(first + PART, options.images))
            for name, store in sets.items():
                parts[name].append(features_of(rows, store, network, options.work / name))
                bar.update(len(rows))
            if rows.stop in SIZES or rows.stop == options.images:
                fids[rows.stop] = frechet_distance(*(np.concatenate(parts[name]) for name in sets))
                result = summary(fids, network, device)
                options.output.write_text(json.dumps(result, indent=1) + "\n")
                tqdm.write(f"{rows.stop} images of each: FID {fids[rows.stop]:.3f}")


def features_of(rows: range, store: ImageStore, network: FeatureNetwork, folder: Path) -> np.ndarray:
    """Features (B, D) of these rows, computed or as an earlier run left them."""
    key = hashlib.sha256(json.dumps([network.record, store.key]).encode()).hexdigest()[:16]
    file = folder / key / f"{rows.start:06d}-{rows.stop:06d}.npy"
    if not file.exists():
        images = torch.from_numpy(np.array(store.images[rows.start : rows.stop]))
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(file, per_process=True) as aside, open(aside, "wb") as stream:
            np.save(stream, network(images)[0].cpu().numpy())
    return np.load(file)


def summary(fids: dict[int, float], network: FeatureNetwork, device: torch.device) -> dict:
    """The figures, and the straight line in 1/N through the last two numbers of images above the dimension.

    With fewer images than dimensions the covariances are singular, and the distance no longer follows c/N.
    """
    result = {
        "images": "the first N of the training set against the first N of the test set",
        "fid": {str(size): fid for size, fid in fids.items()},
        "literature": LITERATURE,
        "network": network.record,
        "device": str(device),
        "torch": torch.__version__,
    }
    sizes = [size for size in fids if size > network.record["features"]][-2:]
    if len(sizes) == 2:
        slope, infinity = np.polyfit(1 / np.array(sizes), [fids[size] for size in sizes], 1)
        # Each of the two sets contributes half of slope/N.
        expected = infinity + slope / 2 * (1 / LITERATURE["train"] + 1 / LITERATURE["test"])
        result["line"] = {"through": sizes, "slope": slope, "infinity": infinity, "at_the_literature_s": expected}
    return result


if __name__ == "__main__":
    main()

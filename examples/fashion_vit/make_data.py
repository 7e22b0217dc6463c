"""Make the data that lies beside the shipped model, from the Debian package `dataset-fashion-mnist`.

    python examples/fashion_vit/make_data.py

calibration.npz: 2,000 images drawn at random from the training split, without labels.
test.npz: the first 2,000 images of the test split with their labels.
"""

from pathlib import Path

import numpy as np
import torch

from paraformer.data.loading import load_data

COUNT = 2000


def main() -> None:
    """Write both files beside this script."""
    here = Path(__file__).parent
    data = load_data()
    (train,), (test,) = data.train.inputs, data.test.inputs
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:COUNT].sort().values
    np.savez_compressed(here / "calibration.npz", images=train[chosen].numpy())
    np.savez_compressed(here / "test.npz", images=test[:COUNT].numpy(), labels=data.test.labels[:COUNT].byte().numpy())


if __name__ == "__main__":
    main()

"""Labels of a stream are checked when they are read."""

import datasets
import pytest
from PIL import Image as Picture

from irnet_convert.data.samples import StreamedSamples
from irnet_convert.errors import DataError


def test_a_label_beyond_the_classes_is_the_projects_own_error():
    pictures = [Picture.new("RGB", (4, 4))] * 3
    rows = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1, 2]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    ).to_iterable_dataset()
    samples = StreamedSamples(
        rows, image="image", label="label", mode="RGB", transform=lambda image: image, seed=None, block=1,
        processes=1, process_index=0, length=None, num_classes=2,
    )  # fmt: skip
    read = iter(samples)
    assert [next(read)[1], next(read)[1]] == [0, 1]
    with pytest.raises(DataError, match="label of sample 2 of the stream is 2"):
        next(read)

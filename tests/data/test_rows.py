import numpy as np

from kdc.data.examples import Examples
from kdc.data.rows import read_rows, spread, write_rows


def test_texts_and_images_of_different_sizes_come_back_without_labels(tmp_path):
    texts = Examples({"text": ["eins", "", "größer 日本"], "text_pair": ["a", "b", "c"], "label": np.arange(3)})
    write_rows(tmp_path / "rows.npz", texts)
    assert dict(read_rows(tmp_path / "rows.npz").columns) == {"text": texts["text"], "text_pair": texts["text_pair"]}

    images = Examples({"image": [np.zeros((2, 3, 1), np.uint8), np.full((4, 4, 3), 7, np.uint8)]})
    write_rows(tmp_path / "images.npz", images)
    for got, wanted in zip(read_rows(tmp_path / "images.npz")["image"], images["image"], strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_rows_are_taken_evenly_from_the_whole_split():
    examples = Examples({"text": [str(i) for i in range(101)]})
    assert spread(examples, 5)["text"] == ["0", "25", "50", "75", "100"]
    assert len(spread(examples, 500)) == 101
    assert len(spread(examples, 0)) == 0

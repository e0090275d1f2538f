"""Published numbers of pictures."""

from __future__ import annotations

from jseg.data.published_counts import PUBLISHED, count_note


def test_the_published_numbers_pass() -> None:
    assert PUBLISHED["voc12", "train"] == 1464 + 9118 == 10_582
    for (dataset, section), count in PUBLISHED.items():
        assert count_note(dataset, section, count) == ""
    assert count_note("shapes", "train", 7) == ""


def test_well_known_mistakes_are_named() -> None:
    assert "train.txt alone" in count_note("voc12", "train", 1464)
    assert "holds pictures of VOC's val" in count_note("voc12", "train", 11_355)
    assert "COCO-Stuff 10k" in count_note("coco_stuff", "train", 9000)
    assert count_note("context", "val", 5104) == "context val has 5,104 pictures, the published runs have 5,105"

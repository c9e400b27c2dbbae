"""A few cases of each reader at each run; a million by `python tests/fuzzing.py` (docs/reliability.md)."""

import fuzzing
import pytest

READERS = fuzzing.readers()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_changed_bytes_give_an_error_of_ours_or_are_read(name, tmp_path):
    count = min(150, READERS[name].cases // 100)
    found, problems = fuzzing.run(name, READERS[name], 12345, count, tmp_path)
    assert problems == []
    assert found["refused"] > 0


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_the_corpus_is_of_good_files(name, tmp_path):
    for content in READERS[name].corpus:
        place = tmp_path / f"good{READERS[name].suffix}"
        place.write_bytes(READERS[name].seal(content))
        READERS[name].read(place)


def test_a_case_can_be_made_again():
    reader = READERS["aedat2"]
    assert fuzzing.case(reader, "aedat2", 1, 7) == fuzzing.case(reader, "aedat2", 1, 7)
    assert fuzzing.case(reader, "aedat2", 1, 7) != fuzzing.case(reader, "aedat2", 1, 8)

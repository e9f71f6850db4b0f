"""The account of which behaviours have a test."""

from pathlib import Path

import pytest

from tests.behaviours import CATALOGUES, Behaviour, Sabotage, account, read_catalogue, record
from tests.sabotaged import REPOSITORY

pytest_plugins = ["pytester"]

ENTRIES = """\
[EV-5]
text = "A move of too much is refused."
tested = false

[EV-6]
text = "Counts are right after a move."
tested = false
"""


def behaviour(id_: str, *, tested: bool) -> Behaviour:
    return Behaviour(id=id_, text="Something holds.", tested=tested, sabotages=())


def test_an_id_that_once_had_a_test_and_has_none_is_lost() -> None:
    catalogue = {
        "EV-1": behaviour("EV-1", tested=True),
        "EV-2": behaviour("EV-2", tested=True),
        "EV-3": behaviour("EV-3", tested=False),
    }
    assert account(catalogue, {"EV-2"}) == (["EV-1", "EV-3"], ["EV-1"])


def test_recording_marks_the_given_ids_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "behaviours.toml"
    path.write_text(ENTRIES)
    record(path, {"EV-6"})
    assert [one.tested for one in read_catalogue(path).values()] == [False, True]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest('pytest_plugins = ["tests.behaviours"]')
    root = Path(__file__).parents[2]
    pytester.makeini(f"[pytest]\npythonpath = {root}\naddopts = -p no:randomly -p no:cacheprovider\n")
    return pytester


@pytest.mark.parametrize("arguments", ['"EV-999"', '"EV-1", "EV-2"', "", '"EV-1", why="no"'])
def test_a_marker_that_is_not_one_known_id_fails_its_test(project: pytest.Pytester, arguments: str) -> None:
    project.makepyfile(f"import pytest\n@pytest.mark.behaviour({arguments})\ndef test_a(): pass\n")
    run = project.runpytest_subprocess()
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines("a behaviour marker takes one id*")


def test_a_unit_test_cannot_prove_a_behaviour(project: pytest.Pytester) -> None:
    project.mkdir("unit")
    (project.path / "unit" / "test_it.py").write_text(
        'import pytest\n@pytest.mark.behaviour("EV-1")\ndef test_a(): pass\n'
    )
    run = project.runpytest_subprocess()
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines("a unit test cannot prove EV-1")


def test_only_behaviours_whose_test_passed_count_as_proved(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        @pytest.mark.behaviour("EV-1")
        @pytest.mark.behaviour("EV-2")
        def test_passes(): pass
        @pytest.mark.behaviour("EV-3")
        def test_fails(): assert False
        @pytest.mark.behaviour("EV-4")
        @pytest.mark.skip
        def test_is_skipped(): pass
        """
    )
    project.runpytest_subprocess("--behaviours-proved", "proved.json")
    assert (project.path / "proved.json").read_text() == '["EV-1", "EV-2"]'


def test_one_behaviour_can_be_selected(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        @pytest.mark.behaviour("EV-1")
        def test_one(): pass
        @pytest.mark.behaviour("EV-2")
        def test_two(): pass
        """
    )
    project.runpytest_subprocess("--behaviour", "EV-2").assert_outcomes(passed=1, deselected=1)


def test_one_invariant_can_be_selected_and_its_marker_is_held_to_its_own_catalogue(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        @pytest.mark.invariant("INV-1")
        def test_one(): pass
        @pytest.mark.invariant("INV-2")
        def test_two(): pass
        """
    )
    project.runpytest_subprocess("--invariant", "INV-1").assert_outcomes(passed=1, deselected=1)
    project.makepyfile('import pytest\n@pytest.mark.invariant("EV-1")\ndef test_a(): pass\n')
    run = project.runpytest_subprocess()
    run.assert_outcomes(errors=1)
    run.stdout.fnmatch_lines("an invariant marker takes one id of invariants.toml*")


SABOTAGES = [
    pytest.param(sabotage, id=f"{one.id}-{place}")
    for path in CATALOGUES.values()
    for one in read_catalogue(path).values()
    for place, sabotage in enumerate(one.sabotages)
]


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_sabotage_names_one_place_of_the_code_as_it_is_now(sabotage: Sabotage) -> None:
    assert (REPOSITORY / sabotage.file).read_text(encoding="utf-8").count(sabotage.find) == 1

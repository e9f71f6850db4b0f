from poolkeeper._core.patience import LONGEST, Patience


def test_each_silence_doubles_it_up_to_a_limit() -> None:
    patience = Patience()
    waits = []
    for _ in range(5):
        waits.append(patience.of(5.0))
        patience.unheard()
    assert waits == [5.0, 10.0, LONGEST, LONGEST, LONGEST]


def test_each_answer_takes_one_step_back() -> None:
    patience = Patience()
    patience.unheard()
    patience.unheard()
    patience.heard()
    assert patience.of(1.5) == 3.0
    patience.heard()
    patience.heard()
    assert patience.of(1.5) == 1.5


def test_days_of_silence_are_no_overflow() -> None:
    patience = Patience()
    for _ in range(100_000):
        patience.unheard()
    assert patience.of(1.0) == LONGEST

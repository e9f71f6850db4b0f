from poolkeeper._core.patience import FIRST, HANDSHAKE, LONGEST, Patience


def test_each_silence_doubles_it_up_to_a_limit() -> None:
    patience = Patience()
    waits = []
    for _ in range(5):
        waits.append(patience.first)
        patience.unheard()
    assert waits == [FIRST, 2 * FIRST, LONGEST, LONGEST, LONGEST]


def test_each_answer_takes_one_step_back() -> None:
    patience = Patience()
    patience.unheard()
    patience.unheard()
    patience.heard()
    assert patience.first == 2 * FIRST
    patience.heard()
    patience.heard()
    assert patience.first == FIRST


def test_days_of_silence_are_no_overflow() -> None:
    patience = Patience()
    for _ in range(100_000):
        patience.unheard()
    assert patience.first == LONGEST


def test_however_long_a_handshake_is_waited_for_another_daemon_has_its_time() -> None:
    patience = Patience()
    assert patience.handshake == HANDSHAKE
    for _ in range(5):
        assert 0 < patience.handshake < patience.first
        patience.unheard()

"""The simulation of many clients, with few of them: what it must show, and that it shows it every time."""

from dataclasses import replace

import pytest

from tests.bench.growth.behaviour import Behaviour
from tests.bench.growth.clock import Clock
from tests.bench.growth.report import rows
from tests.bench.growth.scenarios import daemons_away, database_away, half_lost, settled, steady, storm
from tests.bench.growth.world import Setup

FEW = Setup(clients=200, daemons=2)
#: Those that 20,000 clients keep busy.
MANY = replace(FEW, each=100)


def test_events_happen_in_the_order_of_their_instants_and_then_of_their_making() -> None:
    clock = Clock()
    seen: list[str] = []
    for instant, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "never")):
        clock.at(instant, seen.append, name)
    clock.run(3.0)
    assert seen == ["a", "b", "c"]
    assert clock.now == 3.0


def test_one_seed_is_one_run_and_another_seed_another() -> None:
    first, again = (storm(FEW, 10.0) for _ in range(2))
    assert first == again
    assert storm(replace(FEW, seed=2), 10.0) != first


def test_all_programs_that_start_within_seconds_have_their_seats() -> None:
    outcome = storm(FEW, 10.0)
    assert (outcome.missing, outcome.gave_up, outcome.ended) == (0, 0, 0)
    assert 0 < outcome.start[2] < 1


def test_what_few_that_stand_for_many_show_is_told_of_the_many() -> None:
    many, few = storm(replace(FEW, clients=1_000), 10.0), storm(replace(FEW, clients=100, each=10), 10.0)
    assert (few.clients, few.missing) == (1_000, 0)
    assert few.mean == pytest.approx(many.mean, rel=0.1)
    assert 5 < few.start[0] / many.start[0] < 20


def test_programs_that_start_together_at_a_busy_daemon_do_not_hold_up_those_that_run() -> None:
    """Which they did while all calls waited in one line."""
    outcome = storm(replace(FEW, clients=500, daemons=1, each=100), 60.0)
    assert outcome.missing == 0
    assert outcome.heartbeat[2] < outcome.start[2] / 2


def test_a_start_that_is_far_too_much_for_the_daemons_ends_well() -> None:
    outcome = storm(replace(MANY, daemons=1), 10.0)
    assert outcome.unread > 5_000
    assert (outcome.missing, outcome.ended) == (0, 0)
    # 20,000 starts are 54 s of work for it, and programs give up after 20 s: but what it does is done for somebody.
    assert outcome.back < 120


def test_no_program_notices_an_outage_of_80_seconds() -> None:
    outcome = daemons_away(settled(FEW), 80.0)
    assert (outcome.most_lost, outcome.ended, outcome.missing) == (0, 0, 0)
    assert outcome.back < 5


def test_a_crowd_that_comes_back_asks_few_daemons_for_handshakes_that_nobody_wants() -> None:
    outcome = daemons_away(settled(replace(FEW, clients=2_000, each=100, daemons=10)), 30.0)
    assert (outcome.most_lost, outcome.ended, outcome.cut_off) == (0, 0, 0)
    # Those with a heartbeat or two. They were nine while each second of silence was another handshake.
    assert outcome.mean * outcome.seconds / outcome.clients < 7


def test_a_longer_outage_stops_programs_and_takes_no_seat_from_them() -> None:
    outcome = daemons_away(settled(FEW), 300.0)
    assert outcome.most_lost == 200
    assert 180 < outcome.longest_lost < 225
    assert (outcome.ended, outcome.missing) == (0, 0)


def test_what_is_left_out_of_a_long_outage_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    short = daemons_away(settled(FEW), 300.0)
    monkeypatch.setattr("tests.bench.growth.scenarios._BEGINNING", 290.0)
    whole = daemons_away(settled(FEW), 300.0)
    assert short.most_lost == whole.most_lost
    assert short.longest_lost == pytest.approx(whole.longest_lost, abs=3.0)
    assert short.back == pytest.approx(whole.back, abs=2.0)


def test_clients_of_a_lost_daemon_go_on_at_the_other() -> None:
    outcome = half_lost(settled(FEW))
    assert (outcome.most_lost, outcome.ended, outcome.missing) == (0, 0, 0)
    assert outcome.cut_off == 0
    assert 0 < outcome.back < 2


def test_clients_of_a_lost_daemon_go_on_at_the_other_although_it_is_slow() -> None:
    outcome = half_lost(settled(MANY))
    assert (outcome.most_lost, outcome.ended, outcome.missing) == (0, 0, 0)
    assert outcome.cut_off == 0
    assert 2 < outcome.back < 40


def test_a_database_that_is_away_for_a_minute_ends_no_session() -> None:
    outcome = database_away(settled(FEW), 60.0)
    assert (outcome.most_lost, outcome.ended, outcome.missing) == (0, 0, 0)


def test_who_is_still_cut_off_is_not_told_as_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.growth.scenarios._AFTER", 0.01)
    monkeypatch.setattr("tests.bench.growth.scenarios._PATIENCE", 0.0)
    outcome = half_lost(settled(MANY))
    assert outcome.cut_off > 5_000
    assert "are not" in list(rows([outcome]))[2]


def test_clients_that_stay_away_lose_their_sessions() -> None:
    world = settled(FEW)
    for client in world.clients:
        # Nothing that they wait for is theirs any more: as if all of them had been killed.
        client.ticket += 1
    world.pass_by(124.0)
    assert world.store.ended == 0
    world.pass_by(3.0)
    assert world.store.ended == 200


def test_jitter_spreads_what_an_outage_has_brought_together() -> None:
    together = daemons_away(settled(replace(FEW, behaviour=Behaviour(jitter=0.0))), 30.0)
    spread = daemons_away(settled(FEW), 30.0)
    assert together.echo > 2 * spread.echo


def test_a_quiet_hour_is_one_heartbeat_a_client_and_interval() -> None:
    outcome = steady(settled(FEW))
    assert outcome.mean == pytest.approx(200 / 27, rel=0.1)
    assert outcome.heartbeat[2] < 0.1


def test_the_table_has_a_row_for_each_scenario() -> None:
    told = list(rows([storm(FEW, 10.0)]))
    assert len(told) == 3
    assert len({line.count("|") for line in told}) == 1
    assert told[2].startswith("| all start within 10 s | 200 | 2 |")

"""What a client can prove, against one that copies all it has for each heartbeat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper._core.receipts import Receipts
from poolkeeper.v1 import licensing_pb2 as pb
from tests.unit.client.effort import effort

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["grant", "install", "forget"]), st.sampled_from("abcd")),
        st.tuples(st.sampled_from(["ask", "answer", "answer without a receipt", "inherit"]), st.just("")),
    ),
    max_size=40,
)


def grant(name: str, receipt: str, *, installed: bool = False) -> pb.Granted:
    granted = pb.Granted(receipt=receipt.encode())
    granted.allocation.name = name
    granted.allocation.kind = pb.ALLOCATION_KIND_INSTALLED if installed else pb.ALLOCATION_KIND_LEASED
    granted.fence.epoch = 1
    return granted


def proven(proofs: list[pb.Proof]) -> dict[bytes, set[bytes]]:
    return {proof.session_receipt: set(proof.receipts) for proof in proofs}


@given(STEPS)
def test_a_renewal_proves_just_what_it_was_about(steps: list[tuple[str, str]]) -> None:
    receipts, granted = Receipts(), dict[str, bytes]()
    renewed: dict[bytes, set[bytes]] = {}
    under_way: tuple[int, set[bytes]] | None = None
    for number, (step, name) in enumerate(steps):
        match step:
            case "grant" | "install":
                kind = "l" if step == "grant" else "i"
                granted[kind + name] = f"{name}{number}".encode()
                receipts.granted(grant(kind + name, f"{name}{number}", installed=step == "install"))
            case "forget":
                granted.pop("l" + name, None)
                receipts.forgotten("l" + name)
            case "ask":
                under_way = receipts.mark, set(granted.values())
            case "inherit":
                # A session that was replaced: all is taken over by the next, and what it asked is forgotten.
                earlier, receipts, under_way = receipts, Receipts(), None
                receipts.inherit(earlier)
            case _ if under_way is not None:
                (mark, about), under_way = under_way, None
                receipt = f"r{number}".encode() if step == "answer" and about else b""
                receipts.renewed(pb.HeartbeatResponse(epoch=1, receipt=receipt), about=mark, shown=False)
                if receipt:
                    renewed = {receipt: about}
    held = set(granted.values())
    # Another epoch has begun: all is to be shown.
    receipts.renewed(pb.HeartbeatResponse(epoch=2), about=receipts.mark, shown=False)
    told = proven(receipts.proofs())
    newer = told.pop(b"", set())
    assert {receipt: about for receipt, about in told.items() if about & held} == {
        receipt: about for receipt, about in renewed.items() if about & held
    }
    assert newer | (set().union(*told.values()) & held) == held
    assert not newer & set().union(*told.values())


@pytest.mark.invariant("SDK-COST")
def test_a_heartbeat_costs_the_same_whatever_is_held() -> None:
    def cost(held: int) -> int:
        receipts = Receipts()
        for number in range(held):
            receipts.granted(grant(str(number), f"{number}"))
        answer = pb.HeartbeatResponse(epoch=1, receipt=b"r")
        receipts.renewed(answer, about=receipts.mark, shown=False)
        receipts.forgotten("1")

        def beat() -> None:
            mark = receipts.mark
            receipts.proofs()
            receipts.renewed(answer, about=mark, shown=False)

        return effort(beat)

    assert cost(1000) == cost(10)


def test_what_was_given_back_is_not_kept_for_ever() -> None:
    receipts = Receipts()
    answer = pb.HeartbeatResponse(epoch=1, receipt=b"r")
    receipts.granted(grant("kept", "kept"))
    receipts.renewed(answer, about=receipts.mark, shown=False)
    for number in range(100):
        receipts.granted(grant("passing", f"{number}"))
        receipts.forgotten("passing")
        # As when the two never agree at that moment: no receipt of a renewal.
        receipts.renewed(pb.HeartbeatResponse(epoch=1), about=receipts.mark, shown=False)
    assert len(receipts._passing) + len(receipts._returned) == 0  # noqa: SLF001 - a leak shows nowhere else.

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio

from poolkeeper._connector import Connector
from poolkeeper._core.address import parse_addresses
from poolkeeper.trust import Trust


async def test_clients_with_one_list_of_addresses_spread_over_its_daemons() -> None:
    called: Counter[str] = Counter()

    async def serve(stack: AsyncExitStack, name: str) -> int:
        async def answer(request: bytes, context: object) -> bytes:
            del context
            called[name] += 1
            return request

        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler("s", {"m": grpc.unary_unary_rpc_method_handler(answer)})
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        return port

    async with AsyncExitStack() as stack:
        ports = [await serve(stack, name) for name in ("first", "second")]
        addresses = parse_addresses([f"plain://127.0.0.1:{port}" for port in ports])
        for _ in range(40):
            connector = Connector(addresses, Trust(ca_certificate_pem="", server_name=""), "stream")
            async with await connector.channel() as channel:
                call: Any = channel.unary_unary("/s/m")
                await call(b"")
    # All 40 at one of them would come about once in 10¹² runs.
    assert min(called["first"], called["second"]) >= 1
    assert called.total() == 40

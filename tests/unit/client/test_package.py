import inspect
import json
import subprocess
import sys

import pytest

import poolkeeper
from poolkeeper import aio, sync

# What the five dependencies bring by themselves.
ALLOWED = {"grpc", "grpc_status", "google", "cryptography", "_cffi_backend", "cffi", "typing_extensions"}


def loaded_by(program: str) -> set[str]:
    """Top-level modules that a program loads and a bare interpreter does not."""
    report = "; import sys, json; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    names = []
    for text in ("pass", program):
        done = subprocess.run([sys.executable, "-c", text + report], capture_output=True, text=True, check=True)
        names.append(set(json.loads(done.stdout)))
    return {name for name in names[1] - names[0] - sys.stdlib_module_names - {"poolkeeper"} if not name.startswith("_")}


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import poolkeeper") == set()


def test_the_whole_sdk_loads_nothing_but_its_dependencies() -> None:
    every = "import poolkeeper\nfor name in poolkeeper.__all__: getattr(poolkeeper, name)\nimport poolkeeper.testing; 0"
    # gRPC itself looks for its sister packages.
    assert loaded_by(every) <= ALLOWED | loaded_by("import grpc")


def test_importing_the_sdk_configures_no_logging_and_starts_no_thread() -> None:
    program = (
        "import logging, threading, poolkeeper\nfor name in poolkeeper.__all__: getattr(poolkeeper, name)\n"
        "print(logging.getLogger().handlers, logging.getLogger('poolkeeper').handlers, threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] [] 1"


@pytest.mark.parametrize("name", poolkeeper.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(poolkeeper, name).__doc__


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        getattr(poolkeeper, "Licensed")  # noqa: B009 - mypy would refuse the plain form.


PAIRS = [
    (poolkeeper.AsyncClient, poolkeeper.Client),
    (poolkeeper.AsyncAllocation, poolkeeper.Allocation),
    (poolkeeper.AsyncBatchResult, poolkeeper.BatchResult),
]


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("asynchronous", "synchronous"), PAIRS)
def test_sync_and_async_have_the_same_names(asynchronous: type, synchronous: type) -> None:
    assert public(asynchronous) == public(synchronous)


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"),
    [
        *(
            (getattr(one, name), getattr(other, name))
            for one, other in PAIRS
            for name in sorted(public(one))
            if callable(getattr(one, name))
        ),
        (aio.enrol, sync.enrol),
        (poolkeeper.AsyncClient, poolkeeper.Client),
    ],
)
def test_sync_and_async_have_the_same_parameters(asynchronous: object, synchronous: object) -> None:
    def shape(function: object) -> list[tuple[str, object, object]]:
        assert callable(function)
        return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]

    assert shape(asynchronous) == shape(synchronous)

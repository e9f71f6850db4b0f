"""The next release of the daemon: a copy of this one that knows one version of the schema more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import poolkeeper_server
from poolkeeper_server.storage import migration

_STEP = '''"""What the next release changes."""

from alembic import op

revision = "{new}"
down_revision = "{old}"


def upgrade() -> None:
    """A table that this release does not know."""
    op.execute("CREATE TABLE of_the_next_release (id INTEGER PRIMARY KEY)")
    op.execute("INSERT INTO of_the_next_release SELECT count(*) FROM ledger")
'''


def next_release(directory: Path) -> dict[str, str]:
    """Makes it in that directory; gives the environment in which `poolkeeper` is it."""
    this = Path(poolkeeper_server.__file__).parent
    copy = directory / this.name
    shutil.copytree(this, copy, ignore=shutil.ignore_patterns("__pycache__"))
    module = copy / Path(migration.__file__).relative_to(this)
    old, new = migration.VERSION, f"{int(migration.VERSION) + 1:04}"
    text = module.read_text()
    assert text.count(f'VERSION = "{old}"') == 1
    module.write_text(text.replace(f'VERSION = "{old}"', f'VERSION = "{new}"'))
    (newest,) = copy.glob(f"**/versions/{old}_*.py")
    newest.with_name(f"{new}_of_the_next_release.py").write_text(_STEP.format(old=old, new=new))
    return {"PYTHONPATH": os.pathsep.join((str(directory), *filter(None, (os.environ.get("PYTHONPATH"),))))}

"""Testing: a plugin of pytest for tests of your own model, on real databases.

Put `pytest_plugins = ["mirror.testing"]` into the `conftest.py` beside your `pyproject.toml`, and
a fixture `mirror_model` that returns a `Model`. Then each test that asks for the fixture `sandbox`
has a primary and a target of its own, migrated, and a drain between them. docs/testing.md has a
whole example. It needs `permission-mirror[testing]`.

    acting, model  ->  differences, table  ->  sandbox  ->  sandboxes  ->  fixtures

PYTEST_DONT_REWRITE: pytest reads this word here. It would warn that a `conftest.py` has imported
this module before it could rewrite its assert statements, of which there are none.
"""

from mirror.testing.acting import DENIED, Actor, Result
from mirror.testing.model import Model
from mirror.testing.sandbox import Sandbox
from mirror.testing.sandboxes import Sandboxes

__all__ = ["DENIED", "Actor", "Model", "Result", "Sandbox", "Sandboxes"]

# pytest reads this name here, too. So nothing else of the room needs pytest.
pytest_plugins = ["mirror.testing.fixtures"]

"""`python -m mirror.ddl MAPPINGS_MODULE`: print the model migration of a module's registry."""

import sys

from mirror.ddl import model_sql
from mirror.registry import load_registry

sys.stdout.write(model_sql(load_registry(sys.argv[1])))

"""Incremental computation. Read ``db`` first: its head is the theory of operation."""

from moongate.engine.db import Db
from moongate.engine.demand import Demand
from moongate.engine.failures import Contained, Failed
from moongate.engine.propagation import STRIDE
from moongate.engine.queries import Query, query
from moongate.engine.roots import Root

__all__ = ["STRIDE", "Contained", "Db", "Demand", "Failed", "Query", "Root", "query"]

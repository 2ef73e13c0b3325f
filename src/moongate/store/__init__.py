"""The resources that are in force, in the engine's cells. Read ``store`` first: its head is the theory."""

from moongate.store.indexes import SHARDS, Index, find, get, shard
from moongate.store.store import Store

__all__ = ["SHARDS", "Index", "Store", "find", "get", "shard"]

"""The resources that are in force, in the engine's cells. Read ``store`` first: its head is the theory."""

from moongate.store.indexes import SHARDS, Index, PartedIndex, find, find_in, get, parts, shard
from moongate.store.store import Store

__all__ = ["SHARDS", "Index", "PartedIndex", "Store", "find", "find_in", "get", "parts", "shard"]

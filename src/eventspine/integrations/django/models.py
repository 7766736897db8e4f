"""No models: the journal keeps its own tables. Django tells an app that it has migrated only if this module exists."""

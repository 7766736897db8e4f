"""A bank's ledger on real orders: entries that balance, accounts as aggregates, views, a rebuild under way, and every state of 1997."""

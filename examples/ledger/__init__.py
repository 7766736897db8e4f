"""Real orders as event-sourced customers: aggregates, views, a rebuild under way, and every state of 1997 reckoned anew."""
